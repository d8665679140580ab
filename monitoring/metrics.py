"""The service's Prometheus metrics.

Every label takes its values from a closed set, so ids and names that callers choose make no series.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from parley.broker.core.agent_error_table import POLICIES
from parley.broker.core.messages import AgentFailed, AgentOutcome, DeliberationCompleted, Ending, ErrorType
from parley.broker.core.observer import Observer
from parley.broker.core.states_and_moves import ENDINGS, State
from parley.broker.jetstream import topology
from parley.broker.jetstream.forgery_counts import Forgery
from parley.monitoring.choice_metrics import ChoiceMetrics
from parley.workers.model.pool_endpoint_status import EndpointStatus

# The roles with their own prompts. Callers may invent other names; all of those count as OTHER.
KNOWN_ROLES = frozenset({"DEV", "QA", "ARCHITECT", "DEVOPS", "DATA"})
OTHER = "other"
# Bucket bounds in seconds, from a small fast model's answer to the longest deadline.
DURATIONS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600)
AnyMetric = TypeVar("AnyMetric", Counter, Histogram)
TIMEOUTS = frozenset(error_type for error_type, policy in POLICIES.items() if policy.timeout)


class Metrics(Observer):
    """Counts what the handlers report, in a registry of its own.

    `model` is the configured model; answers of any other count as `other`. A process that runs no agents may not know
    it and passes "": the first answer then names it.
    """

    def __init__(self, model: str) -> None:
        # Without this a third of all series would be `_created` gauges, which Prometheus does not use.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they left it untyped
        self.registry = CollectorRegistry()
        # The model counted by name; "" until it is known.
        self._model = model
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, buckets=DURATIONS, registry=self.registry)
        # fmt: off
        self.accepted = counter("parley_deliberations_accepted", "Deliberations recorded.", ["role"])
        self.ended = counter("parley_deliberations_ended", "Endings published.", ["ending", "degraded"])
        self.duration = histogram("parley_deliberation_duration_seconds",
            "From the request's arrival in the stream to its ending.", ["ending"])
        self.outcomes = counter("parley_agent_outcomes",
            "Agents' outcomes counted. `outcome` is completed or the error type.", ["role", "outcome"])
        self.agent_duration = histogram("parley_agent_duration_seconds",
            "One agent's work, retries included.", ["role", "model"])
        self.queue = histogram("parley_agent_queue_seconds",
            "From the request's arrival to the start of an agent's work.")
        self.retries = counter("parley_agent_retries", "Model calls beyond an agent's first.", ["role"])
        self.timeouts = counter("parley_agent_timeouts", "Agents that ran out of time.", ["role", "kind"])
        self.tokens = counter("parley_agent_tokens", "Tokens as the model server counts them.", ["kind"])
        self.ignored = counter("parley_agent_outcomes_ignored",
            "Outcomes that came late, twice, or for nobody.")
        self.dead_letters = counter("parley_dead_letters", "Messages nobody could use.", ["subject"])
        self.failures = counter("parley_handler_failures",
            "Handlers that raised; the message came again.", ["consumer"])
        self.backlog = gauge("parley_consumer_pending", "Messages that wait in the stream.", ["consumer"])
        self.in_hand = gauge("parley_consumer_ack_pending",
            "Messages handed out and not settled.", ["consumer"])
        self.held = gauge("parley_consumer_held",
            "Messages this process has in hand. Jobs are the pool's.", ["consumer"])
        self.limit = gauge("parley_consumer_limit", "The most it takes in hand.", ["consumer"])
        # fmt: on
        self.choices = ChoiceMetrics(self.registry)
        # The series in use, by metric and labels.
        self._series: dict[tuple[object, ...], Any] = {}
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Create every series now. rate() sees no increase in a series that begins with its first event."""
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
        """Read the pool's numbers at each scrape."""
        gauge = partial(Gauge, registry=self.registry)
        gauge("parley_pool_slots", "Calls the pool can run at once.").set_function(slots)
        gauge("parley_pool_busy", "Calls it is running.").set_function(busy)

    def watch_consumer(self, name: str, held: Callable[[], int], limit: int) -> None:
        """Read at each scrape how many of a consumer's messages this process holds; `limit` is the most it may hold."""
        self.held.labels(name).set_function(held)
        self.limit.labels(name).set(limit)

    def watch_clock(self, offset: Callable[[], float]) -> None:
        """Read at each scrape how far this machine's clock is ahead of the NATS server's."""
        meaning = "Seconds by which this machine's clock is ahead of the NATS server's. It is corrected for."
        Gauge("parley_clock_offset_seconds", meaning, registry=self.registry).set_function(offset)

    def watch_nats(self, connected: Callable[[], bool], losses: Callable[[], int]) -> None:
        """Read at each scrape whether the service's connection stands, and how often it was lost."""
        meaning = "1 while the service is connected to NATS."
        Gauge("parley_nats_connected", meaning, registry=self.registry).set_function(
            lambda: float(connected())
        )
        self.registry.register(_LossCollector(losses))

    def watch_breakers(self, statuses: Callable[[], Mapping[str, EndpointStatus]]) -> None:
        """Read the endpoints' breakers, by the endpoint's label, at each scrape."""
        self.registry.register(_BreakerCollector(statuses))

    def watch_forgeries(self, counts: Callable[[], Mapping[Forgery, int]]) -> None:
        """Read at each scrape what the service's connection has ignored."""
        self.registry.register(_ForgeryCollector(counts))

    # ── what handlers report ────────────────────────────────────────────────────────────────────────────────────────────

    def _of(self, metric: AnyMetric, *labels: str) -> AnyMetric:
        """One series of `metric`. prometheus-client's own look-up makes up half of what a count costs."""
        key = (metric, *labels)
        found: AnyMetric | None = self._series.get(key)
        if found is None:
            found = self._series[key] = metric.labels(*labels)
        return found

    def deliberation_accepted(self, role: str) -> None:
        self._of(self.accepted, _role(role)).inc()

    def deliberation_ended(self, ending: Ending) -> None:
        degraded = isinstance(ending, DeliberationCompleted) and ending.degraded
        self._of(self.ended, ending.status, str(degraded).lower()).inc()
        self._of(self.duration, ending.status).observe(ending.duration_ms / 1000)
        if isinstance(ending, DeliberationCompleted):
            self.choices.ended(ending)

    def agent_reported(self, outcome: AgentOutcome) -> None:
        role = _role(outcome.role)
        self.queue.observe(outcome.queue_ms / 1000)
        self._of(self.retries, role).inc(max(0, outcome.attempt - 1))
        if isinstance(outcome, AgentFailed):
            self._of(self.outcomes, role, outcome.error_type.value).inc()
            self._timed_out(outcome)
            return
        self._of(self.outcomes, role, "completed").inc()
        self._model = self._model or outcome.model
        model = outcome.model if outcome.model == self._model else OTHER
        self._of(self.agent_duration, role, model).observe(outcome.duration_ms / 1000)
        # Any client may publish an outcome. With a negative count the counter would raise, and the message would be
        # delivered again.
        self._of(self.tokens, "prompt").inc(max(0, outcome.usage.prompt_tokens))
        self._of(self.tokens, "completion").inc(max(0, outcome.usage.completion_tokens))

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
class _BreakerCollector(Collector):
    statuses: Callable[[], Mapping[str, EndpointStatus]]

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        labels = ["endpoint", "state"]
        meaning = "Workers that have the endpoint's breaker so."
        states = GaugeMetricFamily("parley_endpoint_breakers", meaning, labels=labels)
        name = "parley_endpoint_breaker_openings"
        openings = CounterMetricFamily(name, "Breakers opened.", labels=["endpoint"])
        for endpoint, status in self.statuses().items():
            for state, workers in status.workers.items():
                states.add_metric([endpoint, state.value], workers)
            openings.add_metric([endpoint], status.openings)
        yield states
        yield openings


@dataclass(frozen=True, slots=True)
class _LossCollector(Collector):
    losses: Callable[[], int]

    def collect(self) -> Iterator[CounterMetricFamily]:
        meaning = "Times the service's connection to NATS was lost."
        yield CounterMetricFamily("parley_nats_connection_losses", meaning, value=self.losses())


@dataclass(frozen=True, slots=True)
class _ForgeryCollector(Collector):
    counts: Callable[[], Mapping[Forgery, int]]

    def collect(self) -> Iterator[CounterMetricFamily]:
        meaning = "Messages ignored because they are not what they claim to be."
        found = CounterMetricFamily("parley_forgeries", meaning, labels=["kind"])
        for kind, count in self.counts().items():
            found.add_metric([kind.value], count)
        yield found


def _role(role: str) -> str:
    return role if role in KNOWN_ROLES else OTHER
