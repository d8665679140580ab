"""Gets an answer from several endpoints: chooses one, calls it, retries, and probes those that were down.

`FailoverClient.complete` retries errors that may pass, with jittered backoff, each time at the task's next
endpoint. No wait outlives the deadline. Endpoints whose breaker is open are passed over. If all are open, the
caller waits as long as its backoffs would have taken together, then gets the failure that opened the breaker.

An endpoint that asked to be left alone (`Retry-After`) is passed over until then, and the next one is asked now,
beside the attempts. If all asked for it, the caller waits for the first, or fails at once if that is past its deadline.

A probe asks an open endpoint for one token. It runs in a task of its own, so it neither delays the caller
that triggered it nor is cancelled with it.
"""

import asyncio
import hashlib
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from parley.broker.core.agent_error_table import POLICIES, Signal
from parley.broker.core.messages import ErrorType
from parley.broker.core.timestamps import format_timestamp
from parley.workers.model.breaker import BreakerPolicy, BreakerState, Failure, Permit
from parley.workers.model.call_policy import CallTimeouts, RetryPolicy
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.endpoint_breakers import EndpointBreakers
from parley.workers.model.model_client import ChatModel, ChatRequest, LimitedModel, NoRoom, probe_request
from parley.workers.model.model_error import ModelError
from parley.workers.model.responses import Completion
from parley.workers.model.served_models import ServedModels

log = logging.getLogger("parley.workers")

# How long a call waits for room at one endpoint before it looks at the others again.
ROOM_SECONDS = 1.0
NO_WEIGHTS: Mapping[Endpoint, float] = {}
TOO_LATE = "the deadline passed before an answer came"


@dataclass(slots=True)
class FailoverClient:
    """All agents of a worker share one. Close it with `close`.

    `endpoints`: at least one. `probe_seconds`: the limit of a probe, connection included. `now`: since the
    epoch. `jitter`: a random number from 0 to 1. `served`: who serves which model; None: all serve all. `weights`: of
    endpoints that more or fewer tasks should prefer than others. `limited`: the
    same model, where some endpoints take so many calls at a time: those with room come first.
    """

    model: ChatModel
    endpoints: Sequence[Endpoint]
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    breaker_policy: BreakerPolicy = field(default_factory=BreakerPolicy)
    probe_seconds: float = CallTimeouts().probe
    now: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    jitter: Callable[[], float] = random.random
    served: ServedModels | None = None
    weights: Mapping[Endpoint, float] = field(default_factory=dict)
    limited: LimitedModel | None = None
    breakers: EndpointBreakers = field(init=False)
    # Probes under way.
    _probes: set[asyncio.Task[None]] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self.breakers = EndpointBreakers(self.endpoints, self.breaker_policy)

    async def close(self) -> None:
        """Cancel the probes under way. `complete` must not be called after it."""
        probes = list(self._probes)
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)
        if self.served is not None:
            await self.served.close()

    async def complete(self, task_id: str, request: ChatRequest, deadline: float) -> Completion:
        """The answer to `request`, with the number of calls it took. `deadline`: seconds since the epoch.

        Raises ModelError, also with that number: the last call's error, DEADLINE_EXCEEDED, or, if no endpoint
        could be called, the failure that opened the breaker. A probe is not counted as a call.
        """
        preferred = order = await self._order(task_id, request.model, deadline)
        turn = attempts = 0
        # Endpoints that asked this caller to wait. Going on to another, once each, takes no turn.
        paused: set[Endpoint] = set()
        while True:
            turn += 1
            now = self.now()
            if now >= deadline:
                raise self._too_late(preferred, attempts)
            last = turn >= self.retry.attempts
            # If no endpoint may be called, the agent waits as long as its longest backoff: waiting loads no server.
            # The last turn has no backoff after it.
            pause, patience = (0.0, self.probe_seconds) if last else (self.retry.pause(turn, 1.0), 0.0)
            order = self._with_room_first(order)
            admitted = await self._admit(order, request.model, now + pause, patience, deadline)
            if admitted is None:
                if self.now() < deadline and (last or self._all_paused_past(order, deadline)):
                    raise self._none_free(preferred, attempts)
                continue
            endpoint, permit = admitted
            attempts += 1
            place = order.index(endpoint) + 1
            order = [*order[place:], *order[:place]]
            try:
                completion = await self._call(endpoint, request, deadline - self.now(), len(order))
            except NoRoom:
                # Another may have some by now. Waiting is no call.
                self.breakers.end(endpoint, permit, Signal.IGNORED, self.now())
                attempts, turn = attempts - 1, turn - 1
                continue
            except ModelError as error:
                attempts -= 1 - min(error.attempts, 1)
                error.attempts = attempts
                self._end_failed(endpoint, permit, error, task_id)
                if not POLICIES[error.error_type].retried:
                    raise
                if error.retry_after:
                    paused.add(endpoint)
                    if self._another_is_free(order, paused):
                        turn -= 1  # six servers that ask for a pause must not use up the attempts in no time
                        continue
                wait = self._wait(turn, order)
                if last or self.now() + wait >= deadline:
                    raise
                await self.sleep(wait)
                continue
            except BaseException:
                self.breakers.end(endpoint, permit, Signal.IGNORED, self.now())
                raise
            self.breakers.end(endpoint, permit, Signal.ALIVE, self.now())
            return completion if attempts == 1 else replace(completion, attempts=attempts)

    def _with_room_first(self, order: list[Endpoint]) -> list[Endpoint]:
        if self.limited is None or len(order) == 1:
            return order
        return sorted(order, key=self.limited.has_room, reverse=True)

    def _call(
        self, endpoint: Endpoint, request: ChatRequest, seconds: float, endpoints: int
    ) -> Coroutine[Any, Any, Completion]:
        if self.limited is None or endpoints == 1:
            return self.model.complete(endpoint, request, seconds=seconds)
        return self.limited.complete_soon(endpoint, request, seconds=seconds, patience=ROOM_SECONDS)

    async def _order(self, task_id: str, model: str, deadline: float) -> list[Endpoint]:
        """The endpoints that may serve this model, those first that do. Raises ModelError."""
        if self.served is None:
            return preference_order(task_id, self.endpoints, self.weights)
        serving = self.served.known(model)
        if serving is None:
            try:
                async with asyncio.timeout(max(0.0, deadline - self.now())):
                    serving = await self.served.find(model)
            except TimeoutError:
                late = f"{TOO_LATE}; it is not known yet which server has {model}"
                raise ModelError(ErrorType.DEADLINE_EXCEEDED, late, attempts=0) from None
        if not serving.known and not serving.unknown:
            nobody = f"no server has {model}: {self.served.others()}"
            raise ModelError(ErrorType.MODEL_NOT_FOUND, nobody, attempts=0)
        first = preference_order(task_id, serving.known, self.weights)
        return [*first, *preference_order(task_id, serving.unknown, self.weights)]

    def _another_is_free(self, order: Sequence[Endpoint], paused: Collection[Endpoint]) -> bool:
        """Whether an endpoint that has not asked this caller to wait may be called now."""
        now = self.now()
        others = [endpoint for endpoint in order if endpoint not in paused]
        return self.breakers.first_free(others, now)[0] <= now

    def _wait(self, turn: int, order: Sequence[Endpoint]) -> float:
        """Seconds to the next call, after the one of turn `turn` failed: a backoff, or the first pause's end."""
        backoff, free_at = self.retry.pause(turn, self.jitter()), self._free_at(order)
        return backoff if math.isinf(free_at) else max(backoff, free_at - self.now())

    def _free_at(self, order: Sequence[Endpoint]) -> float:
        """When the first pause of these ends; now without one; infinity while a probe may free one earlier."""
        if any(self.breakers[endpoint].state is not BreakerState.CLOSED for endpoint in order):
            return math.inf
        return self.breakers.first_free(order, self.now())[0]

    def _all_paused_past(self, order: Sequence[Endpoint], deadline: float) -> bool:
        return deadline <= self._free_at(order) < math.inf

    async def _admit(
        self, order: Sequence[Endpoint], model: str, until: float, patience: float, deadline: float
    ) -> tuple[Endpoint, Permit] | None:
        """Wait for a permit to call the first free endpoint; None if none is closed by `until`.

        While a probe runs, wait `patience` seconds longer, and for a pause as long as it takes, if it ends before
        the deadline. Starts the probes that are due, and waits for them only if no other endpoint is free.
        """
        breakers = self.breakers
        while (now := self.now()) < deadline:
            for endpoint, permit in breakers.probes_due(order, now):
                self._start_probe(endpoint, permit, model)
            admitted = breakers.admit(order, now)
            if admitted is not None:
                return admitted
            end = min(until + patience if breakers.probing(order) else until, deadline)
            free_at, _ = breakers.first_free(order, now)
            if free_at < deadline:
                end = max(end, free_at)
            if now >= end or self._all_paused_past(order, deadline):
                return None
            await breakers.wait_changed(min(end, free_at, breakers.next_probe_at(order)) - now, self.sleep)
        return None

    def _end_failed(self, endpoint: Endpoint, permit: Permit, error: ModelError, task_id: str = "") -> None:
        failure, now, jitter = Failure(error.error_type, error.public_text), self.now(), self.jitter()
        self.breakers.end(
            endpoint, permit, error.signal, now, failure=failure, task_id=task_id, jitter=jitter
        )
        if error.retry_after and POLICIES[error.error_type].retried:
            said = "it is busy" if error.status is None else f"HTTP {error.status} from the model server"
            self.breakers.pause(endpoint, error.retry_after, now, Failure(error.error_type, said))

    # ── probes ──────────────────────────────────────────────────────────────────────────────────────────────

    def _start_probe(self, endpoint: Endpoint, permit: Permit, model: str) -> None:
        task = asyncio.create_task(self._probe(endpoint, permit, model), name="probe")
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    async def _probe(self, endpoint: Endpoint, permit: Permit, model: str) -> None:
        """Ask for one token and tell the breaker how that ended."""
        try:
            await self.model.complete(endpoint, probe_request(model), seconds=self.probe_seconds)
        except ModelError as error:
            if error.error_type is ErrorType.DEADLINE_EXCEEDED and not error.is_ours:
                self.breakers.end(endpoint, permit, Signal.SLOW, self.now(), jitter=self.jitter())
            else:
                self._end_failed(endpoint, permit, error)
        except asyncio.CancelledError:
            self.breakers.end(endpoint, permit, Signal.IGNORED, self.now())
            raise
        except Exception:
            self.breakers.end(endpoint, permit, Signal.IGNORED, self.now())
            log.exception("probe of %s failed through a bug", endpoint)
        else:
            self.breakers.end(endpoint, permit, Signal.ALIVE, self.now())

    # ── failing without a call ──────────────────────────────────────────────────────────────────────────────

    def _none_free(self, order: Sequence[Endpoint], attempts: int) -> ModelError:
        """For no free endpoint: why the one that the task prefers is not called, and which others are not."""
        failure, text = self._not_called_since(order)
        return ModelError(failure.error_type, text, attempts=attempts)

    def _too_late(self, order: Sequence[Endpoint], attempts: int) -> ModelError:
        """For a passed deadline; with the reason if no endpoint could be called."""
        free = self.breakers.first_free(order, now := self.now())[0] <= now
        text = TOO_LATE if free else f"{TOO_LATE}; {self._not_called_since(order)[1]}"
        return ModelError(ErrorType.DEADLINE_EXCEEDED, text, attempts=attempts)

    def _not_called_since(self, order: Sequence[Endpoint]) -> tuple[Failure, str]:
        """Why the first of these is not called, and a text about all, those with open breakers together."""
        opened: dict[bool, list[Endpoint]] = {}
        for endpoint in order:
            opened.setdefault(self.breakers[endpoint].failure is not None, []).append(endpoint)
        found = [
            self._open_since(some) if is_open else self._paused(some) for is_open, some in opened.items()
        ]
        return found[0][0], "; ".join(text for _, text in found)

    def _open_since(self, endpoints: Sequence[Endpoint]) -> tuple[Failure, str]:
        breaker = self.breakers[endpoints[0]]
        assert breaker.failure is not None, "no breaker is closed"
        since = f"the breaker of {_and_more(endpoints)} is open since {format_timestamp(breaker.opened_at)}"
        return breaker.failure, f"{since}: {breaker.failure.text}"

    def _paused(self, endpoints: Sequence[Endpoint]) -> tuple[Failure, str]:
        _, pause = self.breakers.first_free(endpoints, self.now())
        asked = f"{_and_more(endpoints)} asked to be left alone until {format_timestamp(pause.until)}"
        return pause.failure, f"{asked}: {pause.failure.text}"


def _and_more(endpoints: Sequence[Endpoint]) -> str:
    return f"{endpoints[0]} (and {len(endpoints) - 1} more)" if len(endpoints) > 1 else str(endpoints[0])


def preference_order(
    task_id: str, endpoints: Sequence[Endpoint], weights: Mapping[Endpoint, float] = NO_WEIGHTS
) -> list[Endpoint]:
    """The order in which a task tries the endpoints.

    All its agents have the same order, so that they share one prefix cache. Rendezvous hashing: an endpoint
    that is added or removed moves its own tasks only. With weights it is first for as large a share of the tasks.
    """

    def place(endpoint: Endpoint) -> bytes:
        return hashlib.blake2b(f"{task_id}\n{endpoint.url}".encode(), digest_size=8).digest()

    def weighted(endpoint: Endpoint) -> float:
        # Schindelhauer and Schomaker, "Weighted distributed hash tables": weight / -ln(hash), the hash within 0 and 1.
        share = ((int.from_bytes(place(endpoint)) >> 12) + 0.5) / 2**52
        return weights.get(endpoint, 1.0) / -math.log(share)

    return sorted(endpoints, key=weighted if weights else place, reverse=True)
