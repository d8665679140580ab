"""What the service counts, for Prometheus. Labels hold only values from closed sets: ids, and names that callers choose, never
become series.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from parley.broker.core.error_policy import POLICIES
from parley.broker.core.lifecycle import ENDINGS, State
from parley.broker.core.messages import (
    AgentCompleted,
    AgentFailed,
    AgentOutcome,
    DeliberationCompleted,
    Ending,
    ErrorType,
)
from parley.broker.core.observer import Observer
from parley.broker.jetstream import topology
from parley.workers.model.endpoint_status import EndpointStatus

# Roles with prompts of their own; a caller may invent any other name, and all of those are counted together.
KNOWN_ROLES = frozenset({"DEV", "QA", "ARCHITECT", "DEVOPS", "DATA"})
OTHER = "other"
# Seconds. From a fast small model to a deadline of an hour.
DURATIONS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600)
TIMEOUTS = frozenset(error_type for error_type, policy in POLICIES.items() if policy.timeout)


class Metrics(Observer):
    """`model` is the configured one; answers of others are counted as `other`.

    A process that runs no agents may not be told: "" stands for the first model an answer names.
    """

    def __init__(self, model: str) -> None:
        # A `_created` gauge beside every counter would be a third of all series, and Prometheus makes nothing of it.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the one function of theirs without types
        self.registry = CollectorRegistry()
        self._model = model
        registry = self.registry
        self.accepted = Counter(
            "parley_deliberations_accepted", "Deliberations recorded.", ["role"], registry=registry
        )
        self.ended = Counter(
            "parley_deliberations_ended", "Endings published.", ["ending", "degraded"], registry=registry
        )
        self.duration = Histogram(
            "parley_deliberation_duration_seconds",
            "From the request's arrival in the stream to its ending.",
            ["ending"],
            buckets=DURATIONS,
            registry=registry,
        )
        self.outcomes = Counter(
            "parley_agent_outcomes",
            "Agents' outcomes counted. `outcome` is completed or the error type.",
            ["role", "outcome"],
            registry=registry,
        )
        self.agent_duration = Histogram(
            "parley_agent_duration_seconds",
            "One agent's work, retries included.",
            ["role", "model"],
            buckets=DURATIONS,
            registry=registry,
        )
        self.queue = Histogram(
            "parley_agent_queue_seconds",
            "From the request's arrival to the start of an agent's work.",
            buckets=DURATIONS,
            registry=registry,
        )
        self.retries = Counter(
            "parley_agent_retries", "Model calls beyond an agent's first.", ["role"], registry=registry
        )
        self.timeouts = Counter(
            "parley_agent_timeouts", "Agents that ran out of time.", ["role", "kind"], registry=registry
        )
        self.tokens = Counter(
            "parley_agent_tokens", "Tokens as the model server counts them.", ["kind"], registry=registry
        )
        self.ignored = Counter(
            "parley_agent_outcomes_ignored",
            "Outcomes that came late, twice, or for nobody.",
            registry=registry,
        )
        self.dead_letters = Counter(
            "parley_dead_letters", "Messages nobody could use.", ["subject"], registry=registry
        )
        self.failures = Counter(
            "parley_handler_failures",
            "Handlers that raised; the message came again.",
            ["consumer"],
            registry=registry,
        )
        self.backlog = Gauge(
            "parley_consumer_pending", "Messages that wait in the stream.", ["consumer"], registry=registry
        )
        self.in_hand = Gauge(
            "parley_consumer_ack_pending",
            "Messages handed out and not settled.",
            ["consumer"],
            registry=registry,
        )

        self.held = Gauge(
            "parley_consumer_held",
            "Messages this process has in hand. Jobs are the pool's.",
            ["consumer"],
            registry=registry,
        )
        self.limit = Gauge(
            "parley_consumer_limit", "The most it takes in hand.", ["consumer"], registry=registry
        )

        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """A series that appears with its first event shows no increase: rate() would miss the first dead letter of all."""
        for ending in sorted(ENDINGS):
            self.duration.labels(ending)
            for degraded in ("false", "true") if ending is State.COMPLETED else ("false",):
                self.ended.labels(ending, degraded)
        for role in (*sorted(KNOWN_ROLES), OTHER):
            self.accepted.labels(role)
            self.retries.labels(role)
            if self._model:
                self.agent_duration.labels(role, self._model)
            for outcome in ("completed", *ErrorType):
                self.outcomes.labels(role, outcome)
            for timeout in sorted(TIMEOUTS):
                self.timeouts.labels(role, timeout)
        for kind in ("prompt", "completion"):
            self.tokens.labels(kind)
        for durable in topology.DURABLES:
            self.dead_letters.labels(durable.filter)
            self.failures.labels(durable.name)

    def watch_pool(self, slots: Callable[[], int], busy: Callable[[], int]) -> None:
        """Read the pool's numbers whenever they are asked for."""
        Gauge("parley_pool_slots", "Calls the pool can run at once.", registry=self.registry).set_function(
            slots
        )
        Gauge("parley_pool_busy", "Calls it is running.", registry=self.registry).set_function(busy)

    def watch_consumer(self, name: str, held: Callable[[], int], limit: int) -> None:
        """Read what this process has in hand of a consumer whenever it is asked for; `limit`: the most it takes."""
        self.held.labels(name).set_function(held)
        self.limit.labels(name).set(limit)

    def watch_breakers(self, standings: Callable[[], Mapping[str, EndpointStatus]]) -> None:
        """Read how the workers see the endpoints whenever it is asked for."""
        self.registry.register(_Breakers(standings))

    def text(self) -> bytes:
        return generate_latest(self.registry)

    # ── as an observer ────────────────────────────────────────────────────────────────────────────────────────────

    def deliberation_accepted(self, role: str) -> None:
        self.accepted.labels(_role(role)).inc()

    def deliberation_ended(self, ending: Ending) -> None:
        degraded = isinstance(ending, DeliberationCompleted) and ending.degraded
        self.ended.labels(ending.status, str(degraded).lower()).inc()
        self.duration.labels(ending.status).observe(ending.duration_ms / 1000)

    def agent_reported(self, outcome: AgentOutcome) -> None:
        role = _role(outcome.role)
        self.queue.observe(outcome.queue_ms / 1000)
        self.retries.labels(role).inc(max(0, outcome.attempt - 1))
        match outcome:
            case AgentCompleted():
                self.outcomes.labels(role, "completed").inc()
                self._model = self._model or outcome.model
                model = outcome.model if outcome.model == self._model else OTHER
                self.agent_duration.labels(role, model).observe(outcome.duration_ms / 1000)
                # A counter refuses to be lowered, and anybody may publish an outcome: it must not come back for that.
                self.tokens.labels("prompt").inc(max(0, outcome.usage.prompt_tokens))
                self.tokens.labels("completion").inc(max(0, outcome.usage.completion_tokens))
            case AgentFailed():
                self.outcomes.labels(role, outcome.error_type.value).inc()
                self._timed_out(outcome)

    def outcome_ignored(self, outcome: AgentOutcome) -> None:
        self.ignored.inc()
        if isinstance(outcome, AgentFailed):
            self._timed_out(outcome)

    def _timed_out(self, outcome: AgentFailed) -> None:
        if outcome.error_type in TIMEOUTS:
            self.timeouts.labels(_role(outcome.role), outcome.error_type.value).inc()

    def dead_lettered(self, subject: str) -> None:
        self.dead_letters.labels(subject).inc()

    def handler_failed(self, consumer: str) -> None:
        self.failures.labels(consumer).inc()


@dataclass(frozen=True, slots=True)
class _Breakers(Collector):
    standings: Callable[[], Mapping[str, EndpointStatus]]

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        labels = ["endpoint", "state"]
        states = GaugeMetricFamily(
            "parley_endpoint_breakers", "Workers that have the endpoint's breaker so.", labels=labels
        )
        openings = CounterMetricFamily(
            "parley_endpoint_breaker_openings", "Breakers opened.", labels=["endpoint"]
        )
        for endpoint, standing in self.standings().items():
            for state, workers in standing.workers.items():
                states.add_metric([endpoint, state.value], workers)
            openings.add_metric([endpoint], standing.openings)
        yield states
        yield openings


def _role(role: str) -> str:
    return role if role in KNOWN_ROLES else OTHER
