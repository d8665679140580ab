"""Which messages of a filling stream nobody needs any more. Pure.

A stream that is full refuses what is new. Requests and outcomes are kept for two days, so under load they would fill
their streams with what is long done. Over half of its limit, a stream is purged up to the first message that an open
deliberation or a consumer still needs. Dead letters are needed by nobody but their operator: the older half goes.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from parley.broker.core.tally import Tally

# A stream is trimmed when it holds more than this share of its limit.
FULL_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Floor:
    """`settled`: a consumer has settled every message up to this sequence. `idle`: all that there are."""

    settled: int
    idle: bool


def first_unsettled(floors: Iterable[Floor], last_seq: int) -> int:
    """The first sequence that some consumer may still deliver. `last_seq`: read before the floors."""
    return min((last_seq + 1 if floor.idle else floor.settled + 1 for floor in floors), default=1)


class Needed:
    """The lowest places that unfinished tallies name. Read the consumers' floors before the tallies: what is settled
    by then is in a tally."""

    def __init__(self, first_request: int, first_outcome: int) -> None:
        # In REQUESTS, and in AGENT_RESPONSES.
        self.first_request = first_request
        self.first_outcome = first_outcome

    def add(self, tally: Tally) -> None:
        """An unfinished tally."""
        self.first_request = min(self.first_request, tally.request_seq)
        seqs = (outcome.seq for phase in tally.all_phases for outcome in phase.outcomes.values())
        self.first_outcome = min((self.first_outcome, *seqs))


def is_filling(stored_bytes: int, max_bytes: int | None) -> bool:
    return bool(max_bytes and max_bytes > 0 and stored_bytes > FULL_SHARE * max_bytes)
