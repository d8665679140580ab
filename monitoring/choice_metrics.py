"""What the choices between answers add to the metrics, and two meters of the judges: orders are even, so each place
should come first equally often, and the longest answer no more often than the others."""

from collections.abc import Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Histogram

from parley.broker.core.judging_orders import LABELS
from parley.broker.core.messages import CastBallot, DeliberationCompleted, PhaseReport, Selection
from parley.broker.core.phase_plan import PhaseKind, Select
from parley.broker.core.tally import ChoiceStatus, ClosedBy
from parley.broker.core.timestamps import parse_timestamp

RESULTS = ("valid", "repaired", "invalid", "missing")
# Bucket bounds in seconds: few, since each way to close a phase has its own.
PHASE_SECONDS = (1.0, 5.0, 30.0, 120.0)
MARGINS = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)


class ChoiceMetrics:
    """Counted from endings, so each once."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter = partial(Counter, registry=registry)
        # fmt: off
        self.selections = counter("parley_selections", "Choices between answers.", ["method", "status"])
        self.margin = Histogram("parley_winner_margin",
            "How far winners are before the next, 0 to 1.", buckets=MARGINS, registry=registry)
        self.ballots = counter("parley_ballots", "Ballots asked for.", ["result"])
        self.first_place = counter("parley_first_place",
            "Ballots by the place at which the judge saw the answer that it put first.", ["place"])
        self.longest_first = counter("parley_longest_first",
            "Ballots by whether the answer put first is the longest of those shown.", ["longest"])
        self.phase = Histogram("parley_phase_seconds", "How long phases were open.", ["phase", "closed_by"],
            buckets=PHASE_SECONDS, registry=registry)
        # fmt: on
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        for status in ChoiceStatus:
            for method in (Select.JUDGE, Select.RANK, Select.VOTE):
                self.selections.labels(method.value, status.value)
        for result in RESULTS:
            self.ballots.labels(result)
        for place in LABELS:
            self.first_place.labels(place)
        for longest in ("true", "false"):
            self.longest_first.labels(longest)
        # Those of every deliberation that chooses. The others begin when they are asked for: all together are 140 time series.
        # Of a cancelled one nothing is counted.
        for closed_by in set(ClosedBy) - {ClosedBy.CANCEL}:
            self.phase.labels(PhaseKind.ANSWER.value, closed_by.value)
            if closed_by not in (ClosedBy.ENOUGH, ClosedBy.AGREE):
                self.phase.labels(PhaseKind.JUDGE.value, closed_by.value)

    def ended(self, ending: DeliberationCompleted) -> None:
        """Without `selection` nothing was chosen, or it did not fit into the ending."""
        for phase in ending.phases:
            self._observe(phase)
        if ending.selection is None:
            return
        self._count(ending.selection)
        lengths = {result.agent_id: len(result.proposal.content) for result in ending.results}
        for ballot in ending.selection.ballots:
            if ballot.ranking is not None:
                self._count_first(ballot, lengths)

    def _count(self, selection: Selection) -> None:
        self.selections.labels(selection.method, selection.status).inc()
        if selection.margin is not None:
            won, parts = selection.margin.split("/")
            self.margin.observe(int(won) / int(parts))
        repaired = sum(ballot.repaired for ballot in selection.ballots)
        counts = (selection.valid - repaired, repaired, selection.invalid, selection.missing)
        for result, ballots in zip(RESULTS, counts, strict=True):
            if ballots:
                self.ballots.labels(result).inc(ballots)

    def _count_first(self, ballot: CastBallot, lengths: Mapping[str, int]) -> None:
        assert ballot.ranking is not None
        first = ballot.ranking[0]
        self.first_place.labels(LABELS[ballot.shown.index(first)]).inc()
        if all(name in lengths for name in ballot.shown):  # not where the results are in the object store
            is_longest = lengths[first] == max(lengths[name] for name in ballot.shown)
            self.longest_first.labels(str(is_longest).lower()).inc()

    def _observe(self, phase: PhaseReport) -> None:
        if phase.closed_at and phase.closed_by:
            seconds = parse_timestamp(phase.closed_at) - parse_timestamp(phase.opened_at)
            self.phase.labels(phase.phase, phase.closed_by).observe(max(0.0, seconds))
