"""One agent or judge of one deliberation: compose its prompt, ask the model, say how it went. No NATS, no Ray."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from parley.broker.core.finish_reasons import is_filtered, is_too_long
from parley.broker.core.frozen_models import changed
from parley.broker.core.messages import (
    MAX_FINAL_ANSWER_CHARACTERS,
    AgentCompleted,
    AgentFailed,
    AgentOutcome,
    AgentRequested,
    ErrorType,
    Proposal,
    ToolCall,
    Usage,
)
from parley.broker.core.phase_plan import COMPARING, Select
from parley.broker.core.timestamps import format_timestamp, parse_timestamp
from parley.workers import edit_prompt, judge_prompt, prompts, revise_prompt
from parley.workers.answer_keys import digest, vote_of
from parley.workers.ballot_reading import read_ballot
from parley.workers.judge_prompt import ANSWERS_CHARACTERS, LEAST_CHARACTERS, WrittenFromAnswers
from parley.workers.model.endpoint_failover import FailoverClient
from parley.workers.model.model_client import ChatRequest
from parley.workers.model.model_error import MAX_ERROR_CHARACTERS, NO_TOKENS, ModelError
from parley.workers.model.responses import Completion
from parley.workers.output_format import InvalidOutput, UnusableSchema, read_in_thread
from parley.workers.prompts import Prompt
from parley.workers.revise_prompt import is_no_answer, may_keep, read_kept


@dataclass(frozen=True, slots=True)
class Agent:
    """Answers the requests of a worker, any number at once.

    `model_name`: for requests that name none. `now`: seconds since the epoch, by the
    NATS server's clock, which set the deadline. `roles`: instructions of an operator's, by role, instead of ours.
    """

    balancer: FailoverClient
    model_name: str
    now: Callable[[], float]
    roles: Mapping[str, str] = field(default_factory=dict)

    async def answer(self, request: AgentRequested, traceparent: str | None = None) -> AgentOutcome:
        """The agent's outcome, at its deadline at the latest. `traceparent` goes with each call to the model.

        Raises CancelledError only, unless there is a bug.
        """
        started = self.now()
        request = self._instructed(request)
        prompt = prompts.compose(request)
        try:
            await self._look_for_judges(request)
            completion, prompt = await self._written(
                request, prompt, lambda attempt: prompts.compose(request, attempt), traceparent
            )
        except ModelError as error:
            return self.failed(
                request, started, error.attempts, error.error_type, str(error), error.usage, error.tool_calls
            )
        for_choice = _what_a_choice_needs(request, completion) if request.is_compared else {}
        return self._completed(request, prompt, completion, started, for_choice)

    async def _look_for_judges(self, request: AgentRequested) -> None:
        """Whether any server has a model of those that the judges will be asked of: answers are paid for before. Raises
        ModelError."""
        named = request.judge_models or (request.judge_model,)
        models = [model for model in dict.fromkeys(named) if model is not None]
        served = self.balancer.served
        if served is None or not models:
            return
        left = parse_timestamp(request.deadline) - self.now()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, left)):
                for model in models:
                    serving = await served.find(model)
                    if serving.known or serving.unknown:
                        return
                nobody = (
                    f"no server has {' or '.join(models)}, which judges are to be asked of: {served.others()}"
                )
                raise ModelError(ErrorType.MODEL_NOT_FOUND, nobody, attempts=0)

    async def judge(
        self, request: AgentRequested, answers: Sequence[AgentCompleted], traceparent: str | None = None
    ) -> AgentOutcome:
        """A judge's outcome: its ranking of `answers`, which are in the order in which it is shown them. Asked once
        more, with more room, if its words hold none; with shorter answers, if they are too long for the model. Raises
        as `answer` does."""
        started, calls, used, why = self.now(), 0, Usage(), ""
        request = self._instructed(request)
        attempt, characters = 1, ANSWERS_CHARACTERS
        while attempt <= 2:
            composed = judge_prompt.compose(request, answers, attempt, characters)
            try:
                completion = await self._complete(
                    request, composed.prompt, traceparent, composed.max_tokens, composed.response_format
                )
            except ModelError as error:
                calls += error.attempts
                too_long = error.error_type is ErrorType.CONTEXT_TOO_LONG
                if too_long and composed.shown.less >= LEAST_CHARACTERS * len(answers):
                    characters = composed.shown.less
                    continue
                if error.error_type is not ErrorType.EMPTY_ANSWER:
                    return self.failed(request, started, calls, error.error_type, str(error), used)
                why = f"no words within {composed.max_tokens} tokens ({error})"
                attempt += 1
                continue
            calls, used = calls + completion.attempts, used.plus(completion.usage)
            ballot = read_ballot(completion.content, len(answers), whole_only=_is_half(completion))
            if ballot is not None:
                if composed.shown.shortened:
                    ballot = ballot.model_copy(update={"shortened": composed.shown.shortened})
                both = replace(completion, attempts=calls, usage=used)
                return self._completed(request, composed.prompt, both, started, {"ballot": ballot})
            why = _no_ballot(completion, composed.max_tokens)
            attempt += 1
        why = f"asked twice, the judge gave {why}"
        return self.failed(request, started, calls, ErrorType.INVALID_BALLOT, why, used)

    async def edit(
        self, request: AgentRequested, answers: Sequence[AgentCompleted], traceparent: str | None = None
    ) -> AgentOutcome:
        """An editor's outcome: an answer written from `answers`, in the order in which it is shown them. Raises as `answer`
        does."""
        return await self._write_from(request, answers, traceparent, edit_prompt.compose, _as_candidate)

    async def revise(
        self, request: AgentRequested, answers: Sequence[AgentCompleted], traceparent: str | None = None
    ) -> AgentOutcome:
        """An agent's outcome in a later round: a better answer than `answers`, which are in the order in which it is shown
        them, or one of them kept. Raises as `answer` does."""

        def revision(words: str) -> dict[str, Any] | None:
            kept = read_kept(words, len(answers)) if may_keep(request) else None
            if kept is not None:
                return {"kept": kept}
            return None if may_keep(request) and is_no_answer(words) else _as_candidate(words)

        return await self._write_from(request, answers, traceparent, revise_prompt.compose, revision)

    async def _write_from(
        self,
        request: AgentRequested,
        answers: Sequence[AgentCompleted],
        traceparent: str | None,
        compose: Callable[[AgentRequested, Sequence[AgentCompleted], int, int], WrittenFromAnswers],
        for_choice: Callable[[str], Mapping[str, Any] | None],
    ) -> AgentOutcome:
        """An answer written from others; from shortened ones, if they are too long for the model. One that is cut off, or
        that is no answer (`for_choice` None), is a failure: there are whole ones."""
        started, calls, used, characters = self.now(), 0, Usage(), ANSWERS_CHARACTERS
        request = self._instructed(request)
        while True:
            composed = compose(request, answers, 1, characters)
            try:
                completion, prompt = await self._written(
                    request,
                    composed.prompt,
                    partial(_again, compose, request, answers, characters),
                    traceparent,
                )
            except ModelError as error:
                calls, used = calls + error.attempts, used.plus(error.usage)
                too_long = error.error_type is ErrorType.CONTEXT_TOO_LONG
                if too_long and composed.shown.less >= LEAST_CHARACTERS * len(answers):
                    characters = composed.shown.less
                    continue
                return self.failed(
                    request, started, calls, error.error_type, str(error), used, error.tool_calls
                )
            calls, used = calls + completion.attempts, used.plus(completion.usage)
            if _is_half(completion):
                who = request.agent_id
                why = f"{who} would not write it" if completion.refused else f"the text of {who} was cut off"
                return self.failed(request, started, calls, ErrorType.MALFORMED_ANSWER, why, used)
            chosen = for_choice(completion.content)
            if chosen is None:
                why = f"{request.agent_id} named no answer that it was shown"
                return self.failed(request, started, calls, ErrorType.MALFORMED_ANSWER, why, used)
            whole = replace(completion, attempts=calls, usage=used)
            return self._completed(request, prompt, whole, started, chosen)

    async def _written(
        self,
        request: AgentRequested,
        prompt: Prompt,
        again: Callable[[int], Prompt],
        traceparent: str | None,
    ) -> tuple[Completion, Prompt]:
        """The answer to this prompt, in the form that was asked for, and the prompt that it is an answer to. `again`: the
        prompt of another attempt. Raises ModelError."""
        if request.response_format is None:
            return await self._complete(request, prompt, traceparent, request.max_tokens), prompt
        return await self._in_format(request, prompt, again, request.response_format, traceparent)

    def _instructed(self, request: AgentRequested) -> AgentRequested:
        words = self.roles.get(request.role) if request.system is None else None
        return request if words is None else changed(request, system=words)

    async def _in_format(
        self,
        request: AgentRequested,
        prompt: Prompt,
        again: Callable[[int], Prompt],
        response_format: Mapping[str, Any],
        traceparent: str | None,
    ) -> tuple[Completion, Prompt]:
        """The answer in the form that was asked for, or a refusal, and the prompt that it is an answer to: `prompt`, or
        at the second try another one. Raises ModelError."""
        calls, used, why = 0, Usage(), ""
        for attempt in (1, 2):
            if attempt > 1:
                prompt = again(attempt)
            try:
                completion = await self._complete(
                    request, prompt, traceparent, request.max_tokens, response_format
                )
            except ModelError as error:
                error.attempts += calls
                error.usage = used.plus(error.usage)
                raise
            calls, used = calls + completion.attempts, used.plus(completion.usage)
            try:
                content = completion.content
                if not completion.refused:
                    left = parse_timestamp(request.deadline) - self.now()
                    async with asyncio.timeout(max(0.0, left)):
                        content = await read_in_thread(content, response_format)
                return replace(completion, content=content, attempts=calls, usage=used), prompt
            except InvalidOutput as error:
                cut = ", and cut off" if is_too_long(completion.finish_reason) else ""
                why = f"{error}{cut}"
            except TimeoutError:
                late = "the deadline passed before the answer was read"
                raise ModelError(ErrorType.DEADLINE_EXCEEDED, late, attempts=calls, usage=used) from None
            except UnusableSchema as error:
                raise ModelError(ErrorType.BAD_REQUEST, str(error), attempts=calls, usage=used) from error
        raise ModelError(
            ErrorType.INVALID_OUTPUT, f"asked twice, the model's answer {why}", attempts=calls, usage=used
        )

    def _complete(
        self, request: AgentRequested, prompt: Prompt, traceparent: str | None, max_tokens: int | None,
        response_format: Mapping[str, Any] | None = None,
    ) -> Coroutine[Any, Any, Completion]:  # fmt: skip
        """The call, not begun. Raises ModelError when it is awaited."""
        # Who writes an answer, and does not compare others.
        is_agent = request.phase not in COMPARING
        chat = ChatRequest(
            model=request.model or self.model_name,
            messages=prompt.messages,
            temperature=prompt.temperature,
            top_p=request.top_p if is_agent else None,
            max_tokens=max_tokens,
            seed=prompt.seed,
            stop=request.stop if is_agent else None,
            response_format=response_format,
            logprobs=request.logprobs if is_agent else None,
            top_logprobs=request.top_logprobs if is_agent else None,
            extra=request.extra if is_agent else None,
            traceparent=traceparent,
            chosen=prompt.chosen,
        )
        return self.balancer.complete(request.task_id, chat, parse_timestamp(request.deadline))

    def _completed(
        self, request: AgentRequested, prompt: Prompt, completion: Completion, started: float,
        for_choice: Mapping[str, Any],
    ) -> AgentCompleted:  # fmt: skip
        """`for_choice`: the fields that a choice needs."""
        now = self.now()
        return AgentCompleted(
            task_id=request.task_id,
            agent_id=request.agent_id,
            round=request.round,
            phase=request.phase,
            role=request.role,
            proposal=Proposal(
                content=completion.content,
                author_id=request.agent_id,
                author_role=request.role,
                model=completion.model,
                temperature=prompt.temperature,
                tokens=completion.usage.completion_tokens,
            ),
            finish_reason=completion.finish_reason,
            refused=completion.refused,
            reasoning=completion.reasoning,
            logprobs=completion.logprobs if request.logprobs else None,
            usage=completion.usage,
            attempt=completion.attempts,
            queue_ms=_queue_ms(request, started),
            duration_ms=_ms(now - started),
            timestamp=format_timestamp(now),
            model=completion.model,
            diversity=request.diversity,
            persona=prompt.persona,
            seed=prompt.seed,
            num_agents=request.num_agents,
            metadata=request.metadata,
            **for_choice,
        )

    def failed(
        self, request: AgentRequested, started: float, attempt: int, error_type: ErrorType, error: str,
        usage: Usage = NO_TOKENS, tool_calls: Sequence[ToolCall] = (),
    ) -> AgentFailed:  # fmt: skip
        """The outcome of an agent without an answer. `started`: since the epoch. `attempt`: its calls."""
        now = self.now()
        return AgentFailed(
            task_id=request.task_id,
            agent_id=request.agent_id,
            round=request.round,
            phase=request.phase,
            role=request.role,
            error=error[:MAX_ERROR_CHARACTERS] or error_type.value,
            error_type=error_type,
            tool_calls=tuple(tool_calls),
            usage=usage,
            attempt=attempt,
            queue_ms=_queue_ms(request, started),
            duration_ms=_ms(now - started),
            timestamp=format_timestamp(now),
            num_agents=request.num_agents,
            metadata=request.metadata,
        )


def _again(
    compose: Callable[[AgentRequested, Sequence[AgentCompleted], int, int], WrittenFromAnswers],
    request: AgentRequested, answers: Sequence[AgentCompleted], characters: int, attempt: int,
) -> Prompt:  # fmt: skip
    return compose(request, answers, attempt, characters).prompt


def _as_candidate(words: str) -> dict[str, Any]:
    """What judges' choices need of a text that they may compare."""
    return {"key": digest(words), "suspect": judge_prompt.is_suspect(words)}


def _what_a_choice_needs(request: AgentRequested, completion: Completion) -> dict[str, Any]:
    words = completion.content
    if request.select is not Select.VOTE:
        return _as_candidate(words)
    key, reason = request.answer_key, completion.finish_reason
    vote = vote_of(words, key, reason, refused=completion.refused) if key is not None else None
    if vote is None:
        return {}
    shown = vote[:MAX_FINAL_ANSWER_CHARACTERS].encode(errors="replace").decode()
    return {"key": digest(vote), "final_answer": shown}


def _is_half(completion: Completion) -> bool:
    """Whether the model had more to say, or would not say it."""
    reason = completion.finish_reason
    return completion.refused or is_too_long(reason) or is_filtered(reason)


def _no_ballot(completion: Completion, max_tokens: int) -> str:
    cut = f" within {max_tokens} tokens" if is_too_long(completion.finish_reason) else ""
    return f"no whole ranking of the answers{cut}"


def _queue_ms(request: AgentRequested, started: float) -> int:
    return _ms(started - parse_timestamp(request.requested_at))


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))
