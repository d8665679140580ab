"""How a request gets its answer: the endpoint that is called, retries, waiting, and probes."""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from parley.broker.core.agent_error_table import POLICIES
from parley.broker.core.messages import ErrorType
from parley.broker.core.timestamps import format_timestamp
from parley.workers.model.breaker import BreakerPolicy, BreakerState, Failure
from parley.workers.model.call_policy import RetryPolicy
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.endpoint_breakers import MAX_PAUSE_SECONDS
from parley.workers.model.endpoint_failover import TOO_LATE, FailoverClient, preference_order
from parley.workers.model.model_client import PROBE_MESSAGES, ChatRequest, ModelClient
from parley.workers.model.model_error import ModelError
from parley.workers.model.responses import Completion
from tests.harness import fresh, until
from tests.mirror.workers.model.scripted import DONE, START, THREE, Clock, ScriptedModel, trouble
from tests.rig.habit_server import Heard, Reply, habit_server, refusal

DEADLINE_SECONDS = 60.0
RETRIED = sorted(kind for kind, policy in POLICIES.items() if policy.retried)
NOT_RETRIED = sorted(set(ErrorType) - set(RETRIED))
ASK = ChatRequest(model="some-model", messages=[{"role": "user", "content": "Say something"}])


async def ask(
    balancer: FailoverClient,
    task_id: str | None = None,
    *,
    deadline: float | None = None,
    request: ChatRequest = ASK,
) -> Completion | ModelError:
    """The answer or the error; without `deadline`, for a minute from now."""
    due = time.time() + DEADLINE_SECONDS if deadline is None else deadline
    try:
        return await balancer.complete(task_id or fresh("w"), request, due)
    except ModelError as error:
        return error


class Bench:
    """A balancer over a scripted model and clock."""

    def __init__(
        self,
        *script: Completion | ModelError,
        retry: RetryPolicy | None = None,
        jitter: float = 1.0,
        call_seconds: float = 0.0,
        endpoints: Sequence[Endpoint] = THREE[:1],
        policy: BreakerPolicy | None = None,
    ) -> None:
        self.clock = Clock()
        self.model = ScriptedModel(self.clock, script, call_seconds)
        self.balancer = FailoverClient(
            self.model,
            endpoints,
            retry or RetryPolicy(),
            policy or BreakerPolicy(),
            now=self.clock.now,
            sleep=self.clock.sleep,
            jitter=lambda: jitter,
        )

    def state(self, endpoint: Endpoint) -> BreakerState:
        return self.balancer.breakers[endpoint].state

    async def ask(
        self,
        task_id: str | None = None,
        *,
        deadline: float = START + DEADLINE_SECONDS,
        request: ChatRequest = ASK,
    ) -> Completion | ModelError:
        return await ask(self.balancer, task_id, deadline=deadline, request=request)


def failure(answer: Completion | ModelError) -> ModelError:
    assert isinstance(answer, ModelError), answer
    return answer


def success(answer: Completion | ModelError) -> Completion:
    assert isinstance(answer, Completion), answer
    return answer


# ── retries and time ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", RETRIED)
async def test_an_error_that_may_pass_is_retried(kind: ErrorType) -> None:
    bench = Bench(trouble(kind), trouble(kind), DONE)
    answer = success(await bench.ask())
    assert answer.attempts == len(bench.model.calls) == 3


@pytest.mark.parametrize("kind", NOT_RETRIED)
async def test_an_error_that_will_not_pass_is_not_retried(kind: ErrorType) -> None:
    bench = Bench(trouble(kind), DONE)
    answer = failure(await bench.ask())
    assert (answer.error_type, str(answer), answer.attempts) == (kind, f"{kind.value} it is", 1)
    assert len(bench.model.calls) == 1
    assert bench.clock.slept == []


async def test_after_the_last_attempt_the_error_itself_is_raised() -> None:
    bench = Bench(trouble(ErrorType.RATE_LIMITED), retry=RetryPolicy(attempts=4))
    answer = failure(await bench.ask())
    assert answer.error_type is ErrorType.RATE_LIMITED
    assert answer.attempts == len(bench.model.calls) == 4
    assert len(bench.clock.slept) == 3


async def test_backoff_doubles_up_to_its_cap() -> None:
    bench = Bench(trouble(), retry=RetryPolicy(attempts=7, base=0.5, cap=5.0))
    await bench.ask()
    assert bench.clock.slept == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


async def test_backoff_is_fully_jittered() -> None:
    bench = Bench(trouble(), retry=RetryPolicy(attempts=3, base=1.0), jitter=0.25)
    await bench.ask()
    assert bench.clock.slept == [0.25, 0.5]


@pytest.mark.parametrize(("asked", "waited"), [(3.0, 3.0), (0.1, 0.5), (0.0, 0.5), (None, 0.5)])
async def test_retry_after_is_a_lower_bound(asked: float | None, waited: float) -> None:
    bench = Bench(trouble(ErrorType.RATE_LIMITED, asked), DONE, retry=RetryPolicy(base=0.5))
    success(await bench.ask())
    assert bench.clock.slept == [waited]


async def test_retry_after_may_be_longer_than_the_cap() -> None:
    bench = Bench(trouble(ErrorType.RATE_LIMITED, 30.0), DONE, retry=RetryPolicy(cap=1.0))
    success(await bench.ask())
    assert bench.clock.slept == [30.0]


async def test_no_call_starts_after_the_deadline() -> None:
    bench = Bench(DONE)
    answer = failure(await bench.ask(deadline=START))
    assert answer.error_type is ErrorType.DEADLINE_EXCEEDED
    assert answer.attempts == 0
    assert bench.model.calls == []


async def test_a_wait_that_would_outlive_the_deadline_is_not_begun() -> None:
    bench = Bench(trouble(ErrorType.RATE_LIMITED, DEADLINE_SECONDS), DONE)
    answer = failure(await bench.ask())
    assert answer.error_type is ErrorType.RATE_LIMITED
    assert bench.clock.slept == []
    assert bench.clock.now() == START


async def test_every_call_gets_the_time_left_to_the_deadline() -> None:
    bench = Bench(trouble(), trouble(), DONE, retry=RetryPolicy(base=2.0), call_seconds=10.0)
    await bench.ask()
    assert [seconds for _, _, seconds in bench.model.calls] == [60.0, 48.0, 34.0]


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_fails_no_call_and_no_wait_is_past_the_deadline(seed: int) -> None:
    rng = random.Random(seed)
    script = [
        trouble(rng.choice(RETRIED), rng.choice([None, rng.uniform(0, 30)]))
        for _ in range(rng.randint(1, 40))
    ]
    bench = Bench(
        *script, retry=RetryPolicy(attempts=100), jitter=rng.random(), call_seconds=rng.uniform(0, 15)
    )
    answer = failure(await bench.ask())
    deadline = START + DEADLINE_SECONDS
    assert bench.model.calls
    for _, at, seconds in bench.model.calls:
        assert at < deadline
        assert seconds == pytest.approx(deadline - at)
    # A probe is the endpoint's, and has its own limit; nobody waits for it longer than the deadline.
    assert all(at < deadline for _, at, _ in bench.model.probes)
    # The last call may end late; no wait of the balancer does.
    assert bench.model.calls[-1][1] <= deadline
    assert answer.attempts == len(bench.model.calls)


# ── which server ────────────────────────────────────────────────────────────────────────────────────────────


async def test_each_attempt_goes_to_the_next_endpoint_in_the_tasks_own_order() -> None:
    bench = Bench(trouble(), endpoints=THREE, retry=RetryPolicy(attempts=5))
    await bench.ask("task-1")
    order = preference_order("task-1", THREE)
    assert [endpoint for endpoint, _, _ in bench.model.calls] == [*order, *order[:2]]


# ── behind breakers ─────────────────────────────────────────────────────────────────────────────────────────

REFUSED = ModelError(ErrorType.CONNECTION_FAILED, "cannot connect: refused")
ONE_FAILURE_OPENS = BreakerPolicy(failures=1, cooldown=1.0)


class Servers:
    """A balancer over several endpoints that can be down, silent or held up, in real but short time."""

    def __init__(
        self, *, policy: BreakerPolicy, retry: RetryPolicy, endpoints: Sequence[Endpoint] = THREE[:1]
    ) -> None:
        self.down: dict[Endpoint, ModelError] = {}
        self.called: list[Endpoint] = []
        self.probed: list[Endpoint] = []
        self.held: asyncio.Event | None = None
        self.waiting = 0
        self.black_holes: set[Endpoint] = set()
        self.bug = False
        self.balancer = FailoverClient(self, endpoints, retry, policy)

    async def complete(self, endpoint: Endpoint, request: ChatRequest, *, seconds: float) -> Completion:
        (self.probed if request.messages == PROBE_MESSAGES else self.called).append(endpoint)
        await asyncio.sleep(0)
        if self.bug:
            raise RuntimeError("a bug")
        if self.held is not None:
            self.waiting += 1
            try:
                await self.held.wait()
            finally:
                self.waiting -= 1
        if endpoint in self.black_holes:
            await asyncio.sleep(seconds)
            raise ModelError(ErrorType.CONNECTION_FAILED, "cannot connect: timed out")
        if endpoint in self.down:
            raise self.down[endpoint]
        return DONE

    def state(self, endpoint: Endpoint) -> BreakerState:
        return self.balancer.breakers[endpoint].state

    async def ask(self, task_id: str | None = None, *, seconds: float = 60.0) -> Completion | ModelError:
        return await ask(self.balancer, task_id, deadline=time.time() + seconds)

    async def lose(self, endpoint: Endpoint, task_id: str | None = None) -> None:
        """The endpoint refuses, the first caller opens its breaker, and the cool-down passes."""
        self.down[endpoint] = REFUSED
        await self.ask(task_id)
        assert self.state(endpoint) is BreakerState.OPEN
        await until(lambda: time.time() >= self.balancer.breakers[endpoint].probe_at, "the cool-down is over")


def task_that_prefers(endpoint: Endpoint, endpoints: Sequence[Endpoint] = THREE) -> str:
    return next(f"task-{n}" for n in range(1_000) if preference_order(f"task-{n}", endpoints)[0] == endpoint)


async def test_while_the_first_endpoint_is_open_the_next_closed_one_is_called_in_one_attempt() -> None:
    bench = Bench(REFUSED, DONE, endpoints=THREE, policy=ONE_FAILURE_OPENS, retry=RetryPolicy(base=0.1))
    first, second, _ = preference_order("task-1", THREE)
    await bench.ask("task-1")
    answer = success(await bench.ask("task-1"))
    assert answer.attempts == 1
    assert [endpoint for endpoint, _, _ in bench.model.calls] == [first, second, second]
    assert bench.model.probes == []


async def test_a_dead_endpoint_costs_only_the_attempts_that_open_its_breaker() -> None:
    servers = Servers(
        policy=BreakerPolicy(failures=3, cooldown=60.0), retry=RetryPolicy(base=0.001), endpoints=THREE
    )
    servers.down[THREE[0]] = REFUSED
    answers = [success(await servers.ask(f"task-{n}")) for n in range(100)]
    assert servers.called.count(THREE[0]) == 3
    assert sum(answer.attempts - 1 for answer in answers) == 3
    assert servers.probed == []


async def test_the_only_endpoint_if_dead_costs_a_probe_a_cooldown_and_not_every_callers_attempts() -> None:
    bench = Bench(REFUSED, policy=BreakerPolicy(failures=5, cooldown=1.0))
    answers = [failure(await bench.ask()) for _ in range(6)]  # one after the other, up to 7.75 s each
    assert {answer.error_type for answer in answers} == {ErrorType.CONNECTION_FAILED}
    assert len(bench.model.calls) == 5
    # 1 s, 2 s, 4 s, then every 5 s.
    elapsed = bench.clock.now() - START
    assert 3 <= len(bench.model.probes) <= 3 + elapsed / 5.0


async def test_with_every_endpoint_open_a_caller_fails_after_its_backoffs_and_names_the_failure() -> None:
    retry = RetryPolicy(attempts=4, base=0.5, cap=10.0)
    bench = Bench(REFUSED, endpoints=THREE[:2], policy=BreakerPolicy(failures=1, cooldown=60.0), retry=retry)
    opened = failure(await bench.ask("task-1"))
    assert opened.attempts == 2
    opened_at = bench.balancer.breakers[preference_order("task-1", THREE[:2])[0]].opened_at
    before = bench.clock.now()
    answer = failure(await bench.ask("task-1"))
    assert bench.clock.now() - before == 0.5 + 1.0 + 2.0
    assert (answer.error_type, answer.attempts) == (ErrorType.CONNECTION_FAILED, 0)
    for word in (
        str(preference_order("task-1", THREE[:2])[0]),
        "and 1 more",
        format_timestamp(opened_at),
        "cannot connect: refused",
    ):
        assert word in str(answer)


async def test_with_every_endpoint_open_a_caller_without_retries_fails_at_once() -> None:
    bench = Bench(REFUSED, policy=BreakerPolicy(failures=1, cooldown=60.0), retry=RetryPolicy(attempts=1))
    await bench.ask()
    before = bench.clock.now()
    assert failure(await bench.ask()).attempts == 0
    assert bench.clock.now() == before


async def test_at_its_deadline_a_waiting_caller_fails_by_the_deadline_and_names_the_open_breaker() -> None:
    bench = Bench(REFUSED, policy=BreakerPolicy(failures=1, cooldown=60.0), retry=RetryPolicy(attempts=1))
    await bench.ask()
    bench.balancer.retry = RetryPolicy(attempts=50)
    answer = failure(await bench.ask())
    assert bench.clock.now() == START + DEADLINE_SECONDS
    assert (answer.error_type, answer.attempts) == (ErrorType.DEADLINE_EXCEEDED, 0)
    for word in ("deadline", f"the breaker of {THREE[0]} is open since {format_timestamp(START)}", "refused"):
        assert word in str(answer)


async def test_a_passed_deadline_does_not_name_a_breaker_while_an_endpoint_is_closed() -> None:
    bench = Bench(REFUSED, DONE, endpoints=THREE[:2], policy=ONE_FAILURE_OPENS)
    await bench.ask("task-1")
    assert bench.state(preference_order("task-1", THREE[:2])[0]) is BreakerState.OPEN
    assert failure(await bench.ask("task-1", deadline=START)).message == TOO_LATE
    bench = Bench(REFUSED, retry=RetryPolicy(attempts=1))
    await bench.ask()
    assert failure(await bench.ask(deadline=START)).message == TOO_LATE


@pytest.mark.parametrize("policy", [BreakerPolicy(), BreakerPolicy(failures=1)])
async def test_a_caller_waits_for_a_server_that_restarts_in_its_backoffs(policy: BreakerPolicy) -> None:
    """Down for five seconds, with the defaults of a worker: a caller in that time sees it come back."""
    bench = Bench(DONE, policy=policy)

    class Restarting:
        async def complete(self, endpoint: Endpoint, request: ChatRequest, *, seconds: float) -> Completion:
            if bench.clock.now() < START + 5.0:
                raise REFUSED
            return DONE

    bench.balancer.model = Restarting()
    success(await bench.ask())
    assert bench.clock.now() - START < 7.75 + 0.01


async def test_a_probe_asks_for_one_token_in_little_time_and_is_not_an_attempt() -> None:
    bench = Bench(REFUSED, DONE, policy=ONE_FAILURE_OPENS, retry=RetryPolicy(attempts=2, base=4.0))
    answer = success(await bench.ask(request=replace(ASK, model="theirs", traceparent="00-a-b-01")))
    assert answer.attempts == len(bench.model.calls) == 2
    ((_, _, seconds),) = bench.model.probes
    assert seconds == bench.balancer.probe_seconds
    _, probe, real = bench.model.requests
    assert (probe.model, probe.max_tokens, probe.traceparent) == ("theirs", 1, None)
    assert real.messages != probe.messages


@pytest.mark.parametrize("kind", [ErrorType.RATE_LIMITED, ErrorType.MODEL_NOT_FOUND, ErrorType.EMPTY_ANSWER])
async def test_a_refused_probe_closes_the_breaker(kind: ErrorType) -> None:
    bench = Bench(
        REFUSED, trouble(kind), DONE, policy=ONE_FAILURE_OPENS, retry=RetryPolicy(attempts=2, base=4.0)
    )
    success(await bench.ask())
    assert (len(bench.model.calls), len(bench.model.probes)) == (2, 1)


async def test_a_probe_that_times_out_closes_the_breaker_unless_silence_opened_it() -> None:
    late = ModelError(ErrorType.DEADLINE_EXCEEDED, "no whole answer")
    bench = Bench(REFUSED, late, DONE, policy=ONE_FAILURE_OPENS, retry=RetryPolicy(attempts=2, base=4.0))
    success(await bench.ask())
    silence = trouble(ErrorType.FIRST_BYTE_TIMEOUT)
    bench = Bench(silence, late, DONE, policy=ONE_FAILURE_OPENS, retry=RetryPolicy(attempts=2, base=1.0))
    assert failure(await bench.ask()).error_type is ErrorType.FIRST_BYTE_TIMEOUT


async def test_a_probe_outlives_the_deadline_of_the_caller_that_triggered_it() -> None:
    servers = Servers(policy=BreakerPolicy(failures=1, cooldown=0.001), retry=RetryPolicy(attempts=1))
    await servers.lose(THREE[0])
    servers.held = asyncio.Event()
    answer = failure(await servers.ask(seconds=0.05))
    assert (answer.error_type, answer.attempts) == (ErrorType.DEADLINE_EXCEEDED, 0)
    assert "refused" in str(answer)
    assert servers.state(THREE[0]) is BreakerState.HALF_OPEN
    servers.held.set()
    servers.down = {}
    await until(lambda: servers.state(THREE[0]) is BreakerState.CLOSED, "the probe is answered")
    assert servers.probed == [THREE[0]]


async def test_a_probe_goes_on_when_the_caller_that_triggered_it_is_cancelled() -> None:
    servers = Servers(policy=BreakerPolicy(failures=1, cooldown=0.001), retry=RetryPolicy(attempts=1))
    await servers.lose(THREE[0])
    servers.held = asyncio.Event()
    first, second = (asyncio.create_task(servers.ask()) for _ in range(2))
    await until(lambda: servers.probed == [THREE[0]], "the probe is under way")
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    servers.held.set()
    servers.down = {}
    assert success(await second).attempts == 1
    assert servers.probed == [THREE[0]]


async def test_closing_the_balancer_cancels_its_probes_and_a_bug_in_one_leaves_the_breaker_open() -> None:
    servers = Servers(policy=BreakerPolicy(failures=1, cooldown=0.001), retry=RetryPolicy(attempts=1))
    await servers.lose(THREE[0])
    servers.held, before = asyncio.Event(), asyncio.all_tasks()
    failure(await servers.ask(seconds=0.05))
    assert asyncio.all_tasks() > before
    await asyncio.wait_for(servers.balancer.close(), 5)
    assert asyncio.all_tasks() == before
    assert servers.state(THREE[0]) is BreakerState.OPEN
    servers.held, servers.bug = None, True
    await until(lambda: time.time() >= servers.balancer.breakers[THREE[0]].probe_at, "the cool-down is over")
    assert failure(await servers.ask()).error_type is ErrorType.CONNECTION_FAILED
    assert servers.state(THREE[0]) is BreakerState.OPEN


async def test_a_server_that_drops_packets_delays_no_caller_while_another_is_there() -> None:
    """The first of two drops packets: each caller takes as long as with the other alone."""
    two = THREE[:2]
    hole, task_id = two[0], task_that_prefers(two[0], two)
    servers = Servers(
        policy=BreakerPolicy(failures=1, cooldown=0.01), retry=RetryPolicy(base=0.001), endpoints=two
    )
    await servers.lose(hole, task_id)
    servers.black_holes = {hole}
    servers.balancer.probe_seconds = 0.1
    for _ in range(50):
        began = time.monotonic()
        assert success(await servers.ask(task_id, seconds=1.0)).attempts == 1
        assert time.monotonic() - began < 0.5
        await asyncio.sleep(0.01)
    assert 2 <= len(servers.probed) <= 10
    assert set(servers.probed) == {hole}
    # It comes back, and is called again though the other never failed.
    servers.black_holes, servers.down = set(), {}

    async def found() -> bool:
        success(await servers.ask(task_id))
        return servers.called[-1] == hole

    await until(found, "the first server is called again")


async def test_of_many_waiting_callers_one_probes_and_all_go_on_when_it_is_answered() -> None:
    servers = Servers(policy=BreakerPolicy(failures=1, cooldown=0.2), retry=RetryPolicy(attempts=1))
    servers.down[THREE[0]] = REFUSED
    await servers.ask()
    servers.balancer.retry = RetryPolicy(attempts=20, base=1.0)
    callers = [asyncio.create_task(servers.ask()) for _ in range(100)]
    servers.down = {}
    for answer in await asyncio.gather(*callers):
        assert success(answer).attempts == 1
    assert (len(servers.probed), len(servers.called)) == (1, 101)


async def test_only_dead_servers_open_a_breaker_not_refusals_cancelled_calls_or_one_failing_task() -> None:
    servers = Servers(policy=BreakerPolicy(failures=2), retry=RetryPolicy(attempts=1))

    async def fail(error: ModelError) -> None:
        servers.down = {THREE[0]: error}
        failure(await servers.ask("one"))

    for _ in range(10):
        await fail(trouble(ErrorType.RATE_LIMITED))
        servers.held = asyncio.Event()
        cancelled = asyncio.create_task(servers.ask())
        await until(lambda: servers.waiting == 1, "the call is under way")
        cancelled.cancel()
        servers.held = None
        await fail(ModelError(ErrorType.SERVER_ERROR, "500", status=500))
        servers.down = {}
        success(await servers.ask())
    assert servers.state(THREE[0]) is BreakerState.CLOSED
    for _ in range(2):
        await fail(ModelError(ErrorType.SERVER_ERROR, "502", status=502))
    assert servers.state(THREE[0]) is BreakerState.OPEN


async def test_the_failures_of_one_task_do_not_open_the_breaker_for_the_others() -> None:
    bench = Bench(
        ModelError(ErrorType.SERVER_ERROR, "HTTP 500", status=500),
        retry=RetryPolicy(attempts=100),
        jitter=0.0,
    )
    failure(await bench.ask("poisonous"))
    assert bench.balancer.breakers[THREE[0]].state is BreakerState.CLOSED
    assert len(bench.model.calls) == 100


async def test_a_prompt_that_a_server_quoted_is_not_shown_to_another_caller() -> None:
    said = ModelError(
        ErrorType.SERVER_ERROR, "HTTP 502 from the model server: bad prompt 'my secret'", status=502
    )
    bench = Bench(said, policy=BreakerPolicy(failures=1, cooldown=60.0), retry=RetryPolicy(attempts=1))
    assert "my secret" in failure(await bench.ask()).message
    answer = failure(await bench.ask())
    assert answer.error_type is ErrorType.SERVER_ERROR
    assert "HTTP 502" in str(answer)
    assert "my secret" not in str(answer)


# ── endpoints that ask to be left alone ─────────────────────────────────────────────────────────────────────


class Limited:
    """Servers of which some refuse with `Retry-After`. Records the calls of each."""

    def __init__(
        self,
        asked: dict[Endpoint, float],
        *,
        endpoints: Sequence[Endpoint] = THREE[:2],
        kind: ErrorType = ErrorType.RATE_LIMITED,
        attempts: int = 6,
        keeps_its_word: bool = False,
    ) -> None:
        self.asked = asked
        self.kind = kind
        self.keeps_its_word = keeps_its_word
        self.clock = Clock()
        self.calls: list[tuple[Endpoint, float]] = []
        self.balancer = FailoverClient(
            self,
            endpoints,
            RetryPolicy(attempts),
            now=self.clock.now,
            sleep=self.clock.sleep,
            jitter=lambda: 1.0,
        )

    async def complete(self, endpoint: Endpoint, request: ChatRequest, *, seconds: float) -> Completion:
        self.calls.append((endpoint, self.clock.now() - START))
        if endpoint in self.asked and not (
            self.keeps_its_word and self.clock.now() >= START + self.asked[endpoint]
        ):
            raise ModelError(self.kind, "my own words", self.asked[endpoint], 429)
        return DONE

    async def ask(self, task_id: str, *, seconds: float = 10.0) -> Completion | ModelError:
        return await ask(self.balancer, task_id, deadline=self.clock.now() + seconds)


@pytest.mark.parametrize("kind", [ErrorType.RATE_LIMITED, ErrorType.SERVER_ERROR])
@pytest.mark.parametrize("seconds", [0.001, 1.0, 60.0, 86_400.0, 1e18])
async def test_of_two_servers_the_one_that_asks_for_it_is_left_alone_and_the_other_asked_now(
    kind: ErrorType, seconds: float
) -> None:
    two = THREE[:2]
    task = task_that_prefers(two[0], two)
    limited = Limited({two[0]: seconds}, kind=kind)
    answers = [success(await limited.ask(task)) for _ in range(8)]
    assert limited.clock.now() == START
    assert [answer.attempts for answer in answers] == [2, *[1] * 7]
    assert [endpoint for endpoint, _ in limited.calls] == [two[0], two[1], *[two[1]] * 7]


async def test_after_its_pause_a_task_goes_back_to_the_server_it_prefers() -> None:
    two = THREE[:2]
    task = task_that_prefers(two[0], two)
    limited = Limited({two[0]: 60.0})
    success(await limited.ask(task))
    limited.asked = {}
    limited.clock.time += 59.0
    success(await limited.ask(task))
    limited.clock.time += 2.0
    success(await limited.ask(task))
    assert [endpoint for endpoint, _ in limited.calls] == [two[0], two[1], two[1], two[0]]


async def test_agents_that_are_refused_together_all_go_to_the_next_server_together() -> None:
    two = THREE[:2]
    limited = Limited({two[0]: 60.0})
    task = task_that_prefers(two[0], two)
    answers = await asyncio.gather(*(limited.ask(task) for _ in range(8)))
    assert {success(answer).attempts for answer in answers} <= {1, 2}
    assert limited.clock.now() == START


async def test_with_every_server_left_alone_past_the_deadline_the_agent_fails_at_once_with_the_reason() -> (
    None
):
    limited = Limited(dict.fromkeys(THREE[:2], 60.0))
    first = failure(await limited.ask("task-1"))
    assert (first.error_type, str(first), first.attempts) == (ErrorType.RATE_LIMITED, "my own words", 2)
    second = failure(await limited.ask("task-1"))
    assert (second.error_type, second.attempts) == (ErrorType.RATE_LIMITED, 0)
    assert f"(and 1 more) asked to be left alone until {format_timestamp(START + 60)}: HTTP 429" in str(
        second
    )
    assert "my own words" not in str(second)  # they may quote another caller's prompt
    assert (limited.clock.now(), len(limited.calls)) == (START, 2)


async def test_with_every_server_left_alone_an_agent_waits_for_the_first_and_burns_no_attempts() -> None:
    first, second = preference_order("task-1", THREE[:2])
    limited = Limited({first: 40.0, second: 20.0}, keeps_its_word=True)
    assert success(await limited.ask("task-1", seconds=60.0)).attempts == 3
    assert limited.calls == [(first, 0.0), (second, 0.0), (second, 20.0)]


async def test_an_agent_that_comes_while_all_are_left_alone_waits_too_without_a_call() -> None:
    limited = Limited(dict.fromkeys(THREE[:2], 20.0))
    failure(await limited.ask("task-1", seconds=10.0))
    limited.asked = {}
    answer = success(await limited.ask("task-1", seconds=30.0))
    assert answer.attempts == 1
    assert limited.calls[-1][1] == 20.0


async def test_a_day_long_pause_ends_after_the_longest_and_the_server_is_asked_again() -> None:
    limited = Limited({THREE[0]: 86_400.0}, endpoints=THREE[:1])
    failure(await limited.ask("task-1", seconds=100.0))
    limited.asked = {}
    assert success(await limited.ask("task-1", seconds=1_000.0)).attempts == 1
    assert limited.calls[-1][1] == MAX_PAUSE_SECONDS


async def test_a_clock_that_is_set_back_makes_no_pause_longer() -> None:
    limited = Limited({THREE[0]: 60.0}, endpoints=THREE[:1])
    failure(await limited.ask("task-1"))
    limited.asked = {}
    limited.clock.time -= 3_600.0
    assert success(await limited.ask("task-1")).attempts == 1


async def test_servers_that_ask_for_nothing_at_all_are_not_called_in_a_loop() -> None:
    limited = Limited(dict.fromkeys(THREE[:2], 0.0))
    answer = failure(await limited.ask("task-1"))
    assert (answer.attempts, len(limited.calls)) == (6, 6)
    assert limited.clock.now() - START == 0.25 + 0.5 + 1.0 + 2.0 + 4.0


@pytest.mark.parametrize("seconds", [0.001, 0.01, 0.1])
async def test_tiny_pauses_of_all_servers_do_not_burn_the_attempts_in_a_loop(seconds: float) -> None:
    limited = Limited(dict.fromkeys(THREE[:2], seconds))
    answer = failure(await limited.ask("task-1"))
    assert answer.attempts == 7  # going on to the second server once is none of the six
    assert limited.clock.now() - START >= 3.0


async def test_many_servers_that_ask_for_a_pause_do_not_use_up_the_attempts_in_no_time() -> None:
    ten = tuple(Endpoint(f"http://gpu-{n}:8000") for n in range(10))
    limited = Limited(dict.fromkeys(ten, 2.0), endpoints=ten, keeps_its_word=True)
    answer = success(await limited.ask("task-1"))
    assert answer.attempts == 11
    assert [at for _, at in limited.calls] == [*[0.0] * 10, 2.0]
    assert len({endpoint for endpoint, _ in limited.calls}) == 10


async def test_even_a_single_attempt_goes_on_to_a_server_that_is_free() -> None:
    two = THREE[:2]
    limited = Limited({two[0]: 60.0}, attempts=1)
    assert success(await limited.ask(task_that_prefers(two[0], two))).attempts == 2


async def test_a_server_that_is_left_alone_does_not_keep_another_from_being_probed() -> None:
    """One asks for a pause past the deadline, the other is down and comes back."""
    two = THREE[:2]
    bench = Bench(REFUSED, DONE, endpoints=two, policy=BreakerPolicy(failures=1, cooldown=1.0))
    paused, down = preference_order("task-1", two)
    bench.balancer.breakers.pause(paused, 200.0, START, Failure(ErrorType.RATE_LIMITED, "HTTP 429"))
    answer = success(await bench.ask("task-1"))
    assert answer.attempts == 2
    assert {endpoint for endpoint, _, _ in bench.model.calls} == {down}
    assert bench.clock.now() - START < DEADLINE_SECONDS


async def test_both_reasons_are_told_where_one_server_is_down_and_the_other_left_alone() -> None:
    two = THREE[:2]
    bench = Bench(REFUSED, endpoints=two, policy=BreakerPolicy(failures=1, cooldown=60.0))
    paused, down = preference_order("task-1", two)
    bench.balancer.breakers.pause(paused, 200.0, START, Failure(ErrorType.RATE_LIMITED, "HTTP 429"))
    failure(await bench.ask("task-1"))
    answer = failure(await bench.ask("task-1"))
    assert answer.error_type is ErrorType.RATE_LIMITED
    assert str(answer).startswith(f"{paused} asked to be left alone until ")
    assert f"; the breaker of {down} is open since" in str(answer)


async def test_an_error_that_is_not_retried_pauses_nothing() -> None:
    bench = Bench(trouble(ErrorType.BAD_REQUEST, 60.0), DONE)
    failure(await bench.ask())
    success(await bench.ask())


async def test_eight_agents_are_answered_at_once_where_one_of_two_real_servers_asks_for_a_minute() -> None:
    def limited(heard: Heard) -> Reply:
        return refusal(429, "slow down", retry_after="60")

    async with habit_server(limited) as one, habit_server() as other, ModelClient() as client:
        endpoints = Endpoint(one.url), Endpoint(other.url)
        balancer = FailoverClient(client, endpoints)
        began = time.monotonic()
        tasks = [task_that_prefers(endpoints[0], endpoints), task_that_prefers(endpoints[1], endpoints)]
        answers = await asyncio.gather(*(ask(balancer, task) for task in tasks for _ in range(8)))
        assert [success(answer).content for answer in answers] == ["hi"] * 16
        assert time.monotonic() - began < 5
        await balancer.close()
    assert len(one.heard) <= 8
