"""One agent's attempts at an answer, over a scripted model and a clock that only sleeping and calling move."""

import asyncio
import dataclasses
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from parley.broker.core.messages import (
    AgentCompleted,
    AgentFailed,
    AgentOutcome,
    AgentRequested,
    ErrorType,
    Usage,
)
from parley.broker.core.timestamps import format_timestamp
from parley.workers.agent import PASSING, PROBE_MESSAGES, TOO_LATE, Desk, Retry, answer, endpoints_for
from parley.workers.model.balancer import EndpointBalancer
from parley.workers.model.breaker import BreakerPolicy, BreakerState
from parley.workers.model.client import ChatRequest
from parley.workers.model.endpoint import Endpoint
from parley.workers.model.responses import Completion, ModelError
from tests.harness import until
from tests.mirror.workers import work

START = 1_800_000_000.0
DEADLINE_SECONDS = 60.0
MISTAKES = sorted(set(ErrorType) - PASSING)
THREE = tuple(Endpoint(f"http://gpu-{name}:8000") for name in "abc")
DONE = Completion(
    "an answer", "stop", "some-model", Usage(prompt_tokens=9, completion_tokens=2, total_tokens=11)
)


class Clock:
    """Time that passes only when somebody sleeps or a call takes some."""

    def __init__(self) -> None:
        self.time = START
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        for _ in range(10):  # whatever can go on without time passing goes on first, and may end this sleep
            await asyncio.sleep(0)
        self.slept.append(seconds)
        self.time += seconds


class ScriptedModel:
    """Answers as its script says, the last line for ever; every call takes `call_seconds`. Probes are answered so too, but apart."""

    def __init__(
        self, clock: Clock, script: Sequence[Completion | ModelError], call_seconds: float = 0.0
    ) -> None:
        self._clock = clock
        self._script = list(script)
        self._call_seconds = call_seconds
        self.calls: list[tuple[Endpoint, float, float]] = []
        self.probes: list[tuple[Endpoint, float, float]] = []
        self.requests: list[ChatRequest] = []

    async def complete(self, endpoint: Endpoint, request: ChatRequest, *, seconds: float) -> Completion:
        kept = self.probes if request.messages == PROBE_MESSAGES else self.calls
        kept.append((endpoint, self._clock.now(), seconds))
        self.requests.append(request)
        self._clock.time += self._call_seconds
        step = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        if isinstance(step, ModelError):
            raise step
        return step


class Bench:
    """An agent at its desk, and what came of it."""

    def __init__(
        self,
        *script: Completion | ModelError,
        retry: Retry | None = None,
        jitter: float = 1.0,
        call_seconds: float = 0.0,
        endpoints: Sequence[Endpoint] = THREE[:1],
        tolerance: BreakerPolicy | None = None,
    ) -> None:
        self.clock = Clock()
        self.board = EndpointBalancer(tolerance)
        self.model = ScriptedModel(self.clock, script, call_seconds)
        self.desk = Desk(
            model=self.model,
            model_name="some-model",
            endpoints=endpoints,
            retry=retry or Retry(),
            switchboard=self.board,
            now=self.clock.now,
            sleep=self.clock.sleep,
            jitter=lambda: jitter,
        )

    def state(self, endpoint: Endpoint) -> BreakerState:
        return self.board.breaker(endpoint).state

    def retry(self, retry: Retry) -> None:
        self.desk = dataclasses.replace(self.desk, retry=retry)

    async def ask(
        self, request: AgentRequested | None = None, traceparent: str | None = None
    ) -> AgentOutcome:
        return await answer(self.desk, request or timed(), traceparent)


def timed(**fields: Any) -> AgentRequested:
    """Asked two seconds before the clock starts, due a minute after."""
    times = {
        "requested_at": format_timestamp(START - 2),
        "deadline": format_timestamp(START + DEADLINE_SECONDS),
    }
    return work(2, **{**times, **fields})


def trouble(kind: ErrorType = ErrorType.SERVER_ERROR, retry_after: float | None = None) -> ModelError:
    return ModelError(kind, f"{kind.value} it is", retry_after)


def failure(outcome: AgentOutcome) -> AgentFailed:
    assert isinstance(outcome, AgentFailed), outcome
    return outcome


def success(outcome: AgentOutcome) -> AgentCompleted:
    assert isinstance(outcome, AgentCompleted), outcome
    return outcome


async def test_an_answer_becomes_a_completed_outcome_with_all_that_the_contract_names() -> None:
    bench = Bench(DONE, call_seconds=1.5)
    request = timed(diversity=True, seed=10, metadata={"k": "v"}, num_agents=4)
    outcome = success(await bench.ask(request))
    assert (outcome.task_id, outcome.agent_id, outcome.role) == (request.task_id, "agent-dev-002", "DEV")
    assert (outcome.attempt, outcome.queue_ms, outcome.duration_ms) == (1, 2_000, 1_500)
    assert outcome.timestamp == format_timestamp(START + 1.5)
    assert (outcome.proposal.content, outcome.proposal.author_id) == ("an answer", "agent-dev-002")
    assert (outcome.proposal.model, outcome.proposal.tokens) == ("some-model", 2)
    assert (outcome.model, outcome.finish_reason, outcome.usage) == ("some-model", "stop", DONE.usage)
    assert (outcome.diversity, outcome.persona, outcome.seed, outcome.num_agents) == (True, "sceptic", 11, 4)
    assert outcome.proposal.temperature == bench.model.requests[0].temperature == 0.5
    assert outcome.metadata == {"k": "v"}


async def test_the_callers_sampling_and_trace_reach_the_model() -> None:
    bench = Bench(DONE)
    await bench.ask(
        timed(model="theirs", temperature=0.1, max_tokens=7, seed=3, stop=("END",)), traceparent="00-a-b-01"
    )
    (sent,) = bench.model.requests
    assert (sent.model, sent.temperature, sent.max_tokens, sent.seed) == ("theirs", 0.1, 7, 4)
    assert (sent.stop, sent.traceparent) == (("END",), "00-a-b-01")


async def test_without_a_model_of_the_callers_the_configured_one_is_asked_and_the_server_chooses_the_rest() -> (
    None
):
    bench = Bench(DONE)
    await bench.ask()
    (sent,) = bench.model.requests
    assert (sent.model, sent.max_tokens, sent.seed, sent.stop) == ("some-model", None, None, None)


@pytest.mark.parametrize("kind", sorted(PASSING))
async def test_passing_trouble_is_tried_again(kind: ErrorType) -> None:
    bench = Bench(trouble(kind), trouble(kind), DONE)
    outcome = success(await bench.ask())
    assert outcome.attempt == len(bench.model.calls) == 3


@pytest.mark.parametrize("kind", MISTAKES)
async def test_what_trying_again_cannot_mend_is_tried_once(kind: ErrorType) -> None:
    bench = Bench(trouble(kind), DONE)
    outcome = failure(await bench.ask())
    assert (outcome.error_type, outcome.error, outcome.attempt) == (kind, f"{kind.value} it is", 1)
    assert len(bench.model.calls) == 1
    assert bench.clock.slept == []


async def test_trouble_that_does_not_pass_ends_after_the_set_number_of_attempts_in_its_own_name() -> None:
    bench = Bench(trouble(ErrorType.RATE_LIMITED), retry=Retry(attempts=4))
    outcome = failure(await bench.ask())
    assert outcome.error_type is ErrorType.RATE_LIMITED
    assert outcome.attempt == len(bench.model.calls) == 4
    assert len(bench.clock.slept) == 3
    assert outcome.duration_ms == round(sum(bench.clock.slept) * 1000)


async def test_an_error_without_words_still_says_something() -> None:
    outcome = failure(await Bench(ModelError(ErrorType.BAD_REQUEST, "")).ask())
    assert outcome.error == "bad_request"


async def test_backoff_doubles_up_to_its_cap() -> None:
    bench = Bench(trouble(), retry=Retry(attempts=7, base=0.5, cap=5.0))
    await bench.ask()
    assert bench.clock.slept == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


async def test_backoff_is_fully_jittered() -> None:
    assert Bench(trouble(), jitter=0.0).desk.retry.wait(3, None, 0.0) == 0.0
    bench = Bench(trouble(), retry=Retry(attempts=3, base=1.0), jitter=0.25)
    await bench.ask()
    assert bench.clock.slept == [0.25, 0.5]


def test_no_wait_is_outside_its_bounds_whatever_the_dice_say() -> None:
    dice, retry = random.Random(7), Retry(attempts=100, base=0.25, cap=10.0)
    for attempt in range(1, 101):
        wait = retry.wait(attempt, None, dice.random())
        assert 0 <= wait <= min(10.0, 0.25 * 2 ** (attempt - 1)), f"seed 7, attempt {attempt}"


@pytest.mark.parametrize(("asked", "waited"), [(3.0, 3.0), (0.1, 0.5), (0.0, 0.5), (None, 0.5)])
async def test_retry_after_is_a_lower_bound(asked: float | None, waited: float) -> None:
    bench = Bench(trouble(ErrorType.RATE_LIMITED, asked), DONE, retry=Retry(base=0.5))
    success(await bench.ask())
    assert bench.clock.slept == [waited]


async def test_retry_after_is_kept_though_it_is_above_the_cap() -> None:
    bench = Bench(trouble(ErrorType.RATE_LIMITED, 30.0), DONE, retry=Retry(cap=1.0))
    success(await bench.ask())
    assert bench.clock.slept == [30.0]


async def test_nothing_starts_after_the_deadline() -> None:
    bench = Bench(DONE)
    outcome = failure(await bench.ask(timed(deadline=format_timestamp(START))))
    assert outcome.error_type is ErrorType.DEADLINE_EXCEEDED
    assert outcome.attempt == 0
    assert bench.model.calls == []


async def test_no_wait_outlives_the_deadline() -> None:
    bench = Bench(trouble(ErrorType.RATE_LIMITED, DEADLINE_SECONDS), DONE)
    outcome = failure(await bench.ask())
    assert outcome.error_type is ErrorType.RATE_LIMITED
    assert bench.clock.slept == []
    assert bench.clock.now() == START


async def test_every_call_is_given_what_is_left_of_the_deadline() -> None:
    bench = Bench(trouble(), trouble(), DONE, retry=Retry(base=2.0), call_seconds=10.0)
    await bench.ask()
    assert [seconds for _, _, seconds in bench.model.calls] == [60.0, 48.0, 34.0]


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_goes_wrong_no_call_and_no_wait_is_past_the_deadline(seed: int) -> None:
    dice = random.Random(seed)
    script = [
        trouble(dice.choice(sorted(PASSING)), dice.choice([None, dice.uniform(0, 30)]))
        for _ in range(dice.randint(1, 40))
    ]
    bench = Bench(*script, retry=Retry(attempts=100), jitter=dice.random(), call_seconds=dice.uniform(0, 15))
    outcome = failure(await bench.ask())
    deadline = START + DEADLINE_SECONDS
    assert bench.model.calls
    for _, at, seconds in bench.model.calls:
        assert at < deadline
        assert seconds == pytest.approx(deadline - at)
    for _, at, seconds in bench.model.probes:
        assert 0 < seconds <= deadline - at
    # The last call may end late; nothing that we chose to wait for does.
    assert bench.model.calls[-1][1] <= deadline
    assert outcome.attempt == len(bench.model.calls)


async def test_being_cancelled_is_passed_on_and_not_made_into_an_outcome() -> None:
    class Silent:
        """A model that never answers."""

        async def complete(self, endpoint: Endpoint, request: ChatRequest, *, seconds: float) -> Completion:
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

    desk = Desk(model=Silent(), model_name="m", endpoints=THREE)
    task = asyncio.create_task(answer(desk, work()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# ── which server ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_each_attempt_goes_to_the_next_endpoint_in_the_tasks_own_order() -> None:
    bench = Bench(trouble(), endpoints=THREE, retry=Retry(attempts=5))
    request = timed()
    await bench.ask(request)
    order = endpoints_for(request.task_id, THREE)
    assert [endpoint for endpoint, _, _ in bench.model.calls] == [*order, *order[:2]]


def test_all_agents_of_a_task_prefer_the_same_endpoint_however_the_list_is_written() -> None:
    assert endpoints_for("task-1", THREE) == endpoints_for("task-1", THREE[::-1])
    assert sorted(e.url for e in endpoints_for("task-1", THREE)) == [e.url for e in THREE]


def test_tasks_spread_over_the_endpoints() -> None:
    first = Counter(endpoints_for(f"task-{n}", THREE)[0].url for n in range(3_000))
    assert set(first) == {endpoint.url for endpoint in THREE}
    # A fair share is 1,000 with a standard deviation of 26.
    assert all(850 < count < 1_150 for count in first.values()), first


def test_losing_an_endpoint_moves_only_its_own_tasks() -> None:
    *left, gone = THREE
    before = {f"task-{n}": endpoints_for(f"task-{n}", THREE) for n in range(500)}
    for task, order in before.items():
        after = endpoints_for(task, left)
        assert after == [endpoint for endpoint in order if endpoint != gone]


# ── behind breakers ───────────────────────────────────────────────────────────────────────────────────────────────

REFUSED = ModelError(ErrorType.CONNECTION_FAILED, "cannot connect: refused")
QUICK_TEMPERED = BreakerPolicy(failures=1, cooldown=1.0)


class Town:
    """Several endpoints with a manner each, one worker's desk, and time that is real but short."""

    def __init__(
        self, *, tolerance: BreakerPolicy, retry: Retry, endpoints: Sequence[Endpoint] = THREE[:1]
    ) -> None:
        self.down: dict[Endpoint, ModelError] = {}
        self.asked: list[Endpoint] = []
        self.probed: list[Endpoint] = []
        self.held: asyncio.Event | None = None
        self.holes: set[Endpoint] = set()
        self.bug = False
        self.board = EndpointBalancer(tolerance)
        self.desk = Desk(model=self, model_name="m", endpoints=endpoints, retry=retry, switchboard=self.board)

    async def complete(self, endpoint: Endpoint, request: ChatRequest, *, seconds: float) -> Completion:
        (self.probed if request.messages == PROBE_MESSAGES else self.asked).append(endpoint)
        await asyncio.sleep(0)
        if self.bug:
            raise RuntimeError("a bug")
        if self.held is not None:
            await self.held.wait()
        if endpoint in self.holes:
            await asyncio.sleep(seconds)
            raise ModelError(ErrorType.CONNECTION_FAILED, "cannot connect: nobody answers")
        if endpoint in self.down:
            raise self.down[endpoint]
        return DONE

    def state(self, endpoint: Endpoint) -> BreakerState:
        return self.board.breaker(endpoint).state

    async def lose(self, endpoint: Endpoint, **fields: Any) -> None:
        """It refuses, the first agent to meet it opens its breaker, and the cool-down passes."""
        self.down[endpoint] = REFUSED
        await answer(self.desk, work(**fields))
        assert self.state(endpoint) is BreakerState.OPEN
        await until(lambda: time.time() >= self.board.breaker(endpoint).probe_at, "the cool-down is over")


def task_that_prefers(endpoint: Endpoint, endpoints: Sequence[Endpoint] = THREE) -> str:
    return next(f"task-{n}" for n in range(1_000) if endpoints_for(f"task-{n}", endpoints)[0] == endpoint)


async def test_a_closed_endpoint_later_in_the_order_is_called_while_the_first_is_open_and_that_is_one_attempt() -> (
    None
):
    bench = Bench(REFUSED, DONE, endpoints=THREE, tolerance=QUICK_TEMPERED, retry=Retry(base=0.1))
    first, second, _ = endpoints_for("task-1", THREE)
    await bench.ask(timed(task_id="task-1"))
    outcome = success(await bench.ask(timed(task_id="task-1")))
    assert outcome.attempt == 1
    assert [endpoint for endpoint, _, _ in bench.model.calls] == [first, second, second]
    assert bench.model.probes == []


async def test_a_dead_endpoint_opens_after_its_failures_and_one_attempt_of_each_agent_after_that_goes_elsewhere() -> (
    None
):
    town = Town(tolerance=BreakerPolicy(failures=3, cooldown=60.0), retry=Retry(base=0.001), endpoints=THREE)
    town.down[THREE[0]] = REFUSED
    outcomes = [success(await answer(town.desk, work(task_id=f"task-{n}"))) for n in range(100)]
    assert town.asked.count(THREE[0]) == 3
    assert sum(outcome.attempt - 1 for outcome in outcomes) == 3
    assert town.probed == []


async def test_a_dead_endpoint_costs_a_probe_a_cooldown_and_not_every_agents_attempts() -> None:
    bench = Bench(REFUSED, tolerance=BreakerPolicy(failures=5, cooldown=1.0))
    outcomes = [failure(await bench.ask()) for _ in range(6)]  # one after the other, up to 7.75 s each
    assert {outcome.error_type for outcome in outcomes} == {ErrorType.CONNECTION_FAILED}
    assert len(bench.model.calls) == 5
    # 1 s, 2 s, 4 s, then every 5 s.
    elapsed = bench.clock.now() - START
    assert 3 <= len(bench.model.probes) <= 3 + elapsed / 5.0


async def test_an_agent_that_finds_every_endpoint_open_fails_when_its_backoffs_would_be_over_and_names_the_cause() -> (
    None
):
    retry = Retry(attempts=4, base=0.5, cap=10.0)
    bench = Bench(
        REFUSED, endpoints=THREE[:2], tolerance=BreakerPolicy(failures=1, cooldown=60.0), retry=retry
    )
    opened = failure(await bench.ask(timed(task_id="task-1")))
    assert opened.attempt == 2
    opened_at = bench.board.breaker(endpoints_for("task-1", THREE[:2])[0]).opened_at
    before = bench.clock.now()
    outcome = failure(await bench.ask(timed(task_id="task-1")))
    assert bench.clock.now() - before == 0.5 + 1.0 + 2.0
    assert (outcome.error_type, outcome.attempt) == (ErrorType.CONNECTION_FAILED, 0)
    for word in (
        str(endpoints_for("task-1", THREE[:2])[0]),
        "and 1 more",
        format_timestamp(opened_at),
        "cannot connect: refused",
    ):
        assert word in outcome.error


async def test_an_agent_that_may_not_retry_fails_at_once() -> None:
    bench = Bench(REFUSED, tolerance=BreakerPolicy(failures=1, cooldown=60.0), retry=Retry(attempts=1))
    await bench.ask()
    before = bench.clock.now()
    assert failure(await bench.ask()).attempt == 0
    assert bench.clock.now() == before


async def test_at_its_deadline_a_waiting_agent_ends_by_the_deadline_and_says_what_the_breaker_says() -> None:
    bench = Bench(REFUSED, tolerance=BreakerPolicy(failures=1, cooldown=60.0), retry=Retry(attempts=1))
    await bench.ask()
    bench.retry(Retry(attempts=50))
    outcome = failure(await bench.ask())
    assert bench.clock.now() == START + DEADLINE_SECONDS
    assert (outcome.error_type, outcome.attempt) == (ErrorType.DEADLINE_EXCEEDED, 0)
    for word in ("deadline", f"the breaker of {THREE[0]} is open since {format_timestamp(START)}", "refused"):
        assert word in outcome.error


async def test_who_is_too_late_does_not_blame_a_breaker_while_another_server_is_there_nor_a_single_failure() -> (
    None
):
    bench = Bench(REFUSED, DONE, endpoints=THREE[:2], tolerance=QUICK_TEMPERED)
    await bench.ask(timed(task_id="task-1"))
    assert bench.state(endpoints_for("task-1", THREE[:2])[0]) is BreakerState.OPEN
    assert (
        failure(await bench.ask(timed(task_id="task-1", deadline=format_timestamp(START)))).error == TOO_LATE
    )
    bench = Bench(REFUSED, retry=Retry(attempts=1))
    await bench.ask()
    assert failure(await bench.ask(timed(deadline=format_timestamp(START)))).error == TOO_LATE


@pytest.mark.parametrize("tolerance", [BreakerPolicy(), BreakerPolicy(failures=1)])
async def test_an_agent_waits_for_a_server_that_restarts_within_its_backoffs(
    tolerance: BreakerPolicy,
) -> None:
    """Down for five seconds, with the defaults of a worker: whoever meets it in that time sees it come back."""
    bench = Bench(DONE, tolerance=tolerance)

    class Restarting:
        async def complete(self, endpoint: Endpoint, request: ChatRequest, *, seconds: float) -> Completion:
            if bench.clock.now() < START + 5.0:
                raise REFUSED
            return DONE

    bench.desk = dataclasses.replace(bench.desk, model=Restarting())
    success(await bench.ask())
    assert bench.clock.now() - START < 7.75 + 0.01


async def test_a_probe_asks_for_one_token_in_little_time_and_is_no_attempt() -> None:
    bench = Bench(REFUSED, DONE, tolerance=QUICK_TEMPERED, retry=Retry(attempts=2, base=4.0))
    outcome = success(await bench.ask(timed(model="theirs"), traceparent="00-a-b-01"))
    assert outcome.attempt == len(bench.model.calls) == 2
    ((_, _, seconds),) = bench.model.probes
    assert seconds == bench.desk.probe_seconds
    _, probe, real = bench.model.requests
    assert (probe.model, probe.max_tokens, probe.traceparent) == ("theirs", 1, None)
    assert real.messages != probe.messages


@pytest.mark.parametrize("kind", [ErrorType.RATE_LIMITED, ErrorType.MODEL_NOT_FOUND, ErrorType.EMPTY_ANSWER])
async def test_a_probe_that_is_refused_has_found_somebody(kind: ErrorType) -> None:
    bench = Bench(REFUSED, trouble(kind), DONE, tolerance=QUICK_TEMPERED, retry=Retry(attempts=2, base=4.0))
    success(await bench.ask())
    assert (len(bench.model.calls), len(bench.model.probes)) == (2, 1)


async def test_a_probe_that_had_its_time_finds_a_busy_server_unless_silence_was_the_matter() -> None:
    late = ModelError(ErrorType.DEADLINE_EXCEEDED, "no whole answer")
    bench = Bench(REFUSED, late, DONE, tolerance=QUICK_TEMPERED, retry=Retry(attempts=2, base=4.0))
    success(await bench.ask())
    silence = trouble(ErrorType.FIRST_BYTE_TIMEOUT)
    bench = Bench(silence, late, DONE, tolerance=QUICK_TEMPERED, retry=Retry(attempts=2, base=1.0))
    assert failure(await bench.ask()).error_type is ErrorType.FIRST_BYTE_TIMEOUT


async def test_a_probe_outlives_the_deadline_of_the_agent_that_called_for_it() -> None:
    town = Town(tolerance=BreakerPolicy(failures=1, cooldown=0.001), retry=Retry(attempts=1))
    await town.lose(THREE[0])
    town.held = asyncio.Event()
    outcome = failure(await answer(town.desk, work(seconds=0.05)))
    assert (outcome.error_type, outcome.attempt) == (ErrorType.DEADLINE_EXCEEDED, 0)
    assert "refused" in outcome.error
    assert town.state(THREE[0]) is BreakerState.HALF_OPEN
    town.held.set()
    town.down = {}
    await until(lambda: town.state(THREE[0]) is BreakerState.CLOSED, "the probe has found somebody")
    assert town.probed == [THREE[0]]


async def test_a_probe_goes_on_for_the_others_when_the_agent_that_called_for_it_is_cancelled() -> None:
    town = Town(tolerance=BreakerPolicy(failures=1, cooldown=0.001), retry=Retry(attempts=1))
    await town.lose(THREE[0])
    town.held = asyncio.Event()
    first, second = (asyncio.create_task(answer(town.desk, work(n))) for n in (1, 2))
    await until(lambda: town.probed == [THREE[0]], "the probe is out")
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    town.held.set()
    town.down = {}
    assert success(await second).attempt == 1
    assert town.probed == [THREE[0]]


async def test_a_probe_is_called_off_when_the_switchboard_closes_and_one_that_fails_by_a_bug_is_over() -> (
    None
):
    town = Town(tolerance=BreakerPolicy(failures=1, cooldown=0.001), retry=Retry(attempts=1))
    await town.lose(THREE[0])
    town.held, before = asyncio.Event(), asyncio.all_tasks()
    failure(await answer(town.desk, work(seconds=0.05)))
    assert asyncio.all_tasks() > before
    await asyncio.wait_for(town.board.close(), 5)
    assert asyncio.all_tasks() == before
    assert town.state(THREE[0]) is BreakerState.OPEN
    town.held, town.bug = None, True
    await until(lambda: time.time() >= town.board.probe_at(THREE), "the cool-down is over")
    assert failure(await answer(town.desk, work())).error_type is ErrorType.CONNECTION_FAILED
    assert town.state(THREE[0]) is BreakerState.OPEN


async def test_no_agent_is_sacrificed_to_a_black_hole_while_another_server_is_there() -> None:
    """The first of two drops packets: each agent has the time of the other, whatever becomes of the probes."""
    two = THREE[:2]
    hole, task_id = two[0], task_that_prefers(two[0], two)
    town = Town(tolerance=BreakerPolicy(failures=1, cooldown=0.01), retry=Retry(base=0.001), endpoints=two)
    await town.lose(hole, task_id=task_id)
    town.holes = {hole}
    town.desk = dataclasses.replace(town.desk, probe_seconds=0.1)
    for _ in range(50):
        began = time.monotonic()
        assert success(await answer(town.desk, work(seconds=1.0, task_id=task_id))).attempt == 1
        assert time.monotonic() - began < 0.5
        await asyncio.sleep(0.01)
    assert 2 <= len(town.probed) <= 10
    assert set(town.probed) == {hole}
    # It comes back, and is found though the other never went.
    town.holes, town.down = set(), {}

    async def found() -> bool:
        success(await answer(town.desk, work(task_id=task_id)))
        return town.asked[-1] == hole

    await until(found, "the first server is called again")


async def test_of_many_who_wait_one_probes_and_all_go_on_when_it_found_somebody() -> None:
    town = Town(tolerance=BreakerPolicy(failures=1, cooldown=0.2), retry=Retry(attempts=1))
    town.down[THREE[0]] = REFUSED
    await answer(town.desk, work())
    town.desk = dataclasses.replace(town.desk, retry=Retry(attempts=20, base=1.0))
    agents = [asyncio.create_task(answer(town.desk, work(n))) for n in range(1, 101)]
    town.down = {}
    for outcome in await asyncio.gather(*agents):
        assert success(outcome).attempt == 1
    assert (len(town.probed), len(town.asked)) == (1, 101)


async def test_one_poisonous_deliberation_does_not_close_the_door_to_the_others() -> None:
    bench = Bench(
        ModelError(ErrorType.SERVER_ERROR, "HTTP 500", status=500), retry=Retry(attempts=100), jitter=0.0
    )
    failure(await bench.ask(timed(task_id="poisonous")))
    assert bench.board.breaker(THREE[0]).state is BreakerState.CLOSED
    assert len(bench.model.calls) == 100


async def test_what_a_server_quoted_of_one_prompt_is_not_told_to_another_agent() -> None:
    said = ModelError(
        ErrorType.SERVER_ERROR, "HTTP 502 from the model server: bad prompt 'my secret'", status=502
    )
    bench = Bench(said, tolerance=BreakerPolicy(failures=1, cooldown=60.0), retry=Retry(attempts=1))
    assert "my secret" in failure(await bench.ask()).error
    outcome = failure(await bench.ask())
    assert outcome.error_type is ErrorType.SERVER_ERROR
    assert "HTTP 502" in outcome.error
    assert "my secret" not in outcome.error
