"""The methods of orchestrator.v1.OrchestratorService: each reads a message, asks as any caller, and answers or refuses."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Never, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from parley.broker.core.states_and_moves import ENDED_STATUSES
from parley.gateway import grpc_messages
from parley.gateway.caller import MAX_WAIT_SECONDS, Caller, ending_within, known, stop, told_of
from parley.gateway.failures import problem_of
from parley.gateway.grpc_stubs import orchestrator_pb2 as pb
from parley.gateway.listing import Sought
from parley.gateway.problems import Problem, invalid
from parley.gateway.question import question_of
from parley.gateway.state import GatewayState

SERVICE = "orchestrator.v1.OrchestratorService"
# A reader that takes nothing for so long is cut.
READ_SECONDS = 30.0

Asked = TypeVar("Asked", bound=Message)
Context = grpc.aio.ServicerContext[bytes, Any]
Method = Callable[[GatewayState, Caller, Asked], Awaitable[Message]]
Stream = Callable[[Caller, Asked], AsyncGenerator[Message, None]]


async def deliberate(_: GatewayState, caller: Caller, request: pb.DeliberateRequest) -> Message:
    body = grpc_messages.body_of_question(request)
    key = request.idempotency_key or None
    asked = await question_of(caller, body, key, key_name=grpc_messages.KEY_NAME)
    job = await caller.submit(asked)
    metadata = grpc_messages.about(asked.metadata)
    return pb.DeliberateResponse(task_id=job.task_id, status="SUBMITTED", metadata=metadata)


async def get_result(_: GatewayState, caller: Caller, request: pb.GetDeliberationResultRequest) -> Message:
    job = caller.job(request.task_id)
    if not 0 <= request.wait_seconds <= MAX_WAIT_SECONDS:
        raise invalid([f"wait_seconds: 0 to {MAX_WAIT_SECONDS:g} seconds"])
    ending = await ending_within(job, request.wait_seconds) if request.wait_seconds else None
    if ending is None:
        status = await known(job)
        if status.status in ENDED_STATUSES:
            ending = await caller.client.find(job.task_id)
        if ending is None:
            return grpc_messages.of_status(status)
    return grpc_messages.of_ending(ending, with_json=request.include_ending_json)


async def cancel(_: GatewayState, caller: Caller, request: pb.CancelDeliberationRequest) -> Message:
    status = await stop(caller.job(request.task_id), request.reason or None)
    return pb.CancelDeliberationResponse(
        task_id=status.task_id, status=grpc_messages.number_of(status.status)
    )


async def list_page(state: GatewayState, caller: Caller, request: pb.ListDeliberationsRequest) -> Message:
    try:
        sought = Sought.of(grpc_messages.query_of_list(request), caller.tenant)
    except Problem as problem:
        raise grpc_messages.renamed(problem) from None
    return grpc_messages.of_page(await state.listing.page(sought))


async def stream(caller: Caller, request: pb.StreamDeliberationRequest) -> AsyncGenerator[Message, None]:
    after = request.after or None
    job = caller.job(request.task_id)
    if after is not None:
        told_of(after, "after")
    await known(job)
    async with aclosing(job.events(after=after)) as events:
        async for event in events:
            yield grpc_messages.of_event(event, with_json=request.include_ending_json)


def handlers(state: GatewayState) -> grpc.GenericRpcHandler:
    """The service, to be added to a server."""
    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "Deliberate": _unary(state, pb.DeliberateRequest, deliberate),
            "GetDeliberationResult": _unary(state, pb.GetDeliberationResultRequest, get_result),
            "StreamDeliberation": _streaming(state, pb.StreamDeliberationRequest, stream),
            "CancelDeliberation": _unary(state, pb.CancelDeliberationRequest, cancel),
            "ListDeliberations": _unary(state, pb.ListDeliberationsRequest, list_page),
        },
    )


# Requests are read here, and not by grpc, which would answer INTERNAL to bytes that are no message. Any: grpc's type of
# a handler knows functions that are not async.


def _unary(state: GatewayState, kind: type[Asked], method: Method[Asked]) -> Any:
    async def answer(raw: bytes, context: Context) -> Message:
        try:
            return await method(state, _caller(state, context), _read(kind, raw))
        except Exception as error:
            await _refuse(context, problem_of(error))

    handler: Any = answer
    return grpc.unary_unary_rpc_method_handler(handler, response_serializer=_written)


def _streaming(state: GatewayState, kind: type[Asked], method: Stream[Asked]) -> Any:
    async def answer(raw: bytes, context: Context) -> None:
        try:
            async with aclosing(method(_caller(state, context), _read(kind, raw))) as messages:
                async for message in messages:
                    async with asyncio.timeout(READ_SECONDS):
                        await context.write(message)
        except TimeoutError:
            # Nothing of the deliberation is held for this reader now. grpc has no way to close one call from here: it
            # tells the reader once it reads again, and closes the connection after CONNECTION_SECONDS (grpc_server.py) at the latest.
            await context.abort(grpc.StatusCode.ABORTED, "nothing was read; go on behind the last event")
        except Exception as error:
            await _refuse(context, problem_of(error))

    handler: Any = answer
    return grpc.unary_stream_rpc_method_handler(handler, response_serializer=_written)


def _caller(state: GatewayState, context: Context) -> Caller:
    found = {str(name): value for name, value in context.invocation_metadata() or ()}
    return state.caller(str(found.get("authorization", "")), _text(found.get("traceparent")))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _read(kind: type[Asked], raw: bytes) -> Asked:
    try:
        return kind.FromString(raw)
    except DecodeError:
        raise invalid([f"payload: is no {kind.DESCRIPTOR.full_name}"]) from None


def _written(message: Message) -> bytes:
    return message.SerializeToString()


async def _refuse(context: Context, problem: Problem) -> Never:
    await context.abort(
        grpc_messages.code_of(problem),
        grpc_messages.detail_of(problem),
        grpc_messages.trailing_metadata(problem),
    )
