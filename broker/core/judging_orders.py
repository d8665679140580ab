"""In which order each judge of a panel is shown the answers.

Judges favour places: the first, the last, or both. So each judge is shown another order, and the orders of a panel are
even: over all judges every answer stands equally far up. Of judges that look at nothing but places all answers win
equally often, an exact tie. docs/deliberation.md has the figures.

A label is a place: "A" is what was shown first, to this judge.
"""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

MAX_JUDGES = 5
# Answers that one judge is shown. A judge of more sees less of each: of eight answers three judges find 68 % of what
# the best one would gain, of five 76 % (planted qualities).
MAX_SHOWN = 8
LABELS = "ABCDEFGH"
# Seeds and orders that are remembered: each is asked for about ten times while a deliberation ends.
KEPT = 1_024

# EVEN[judges, answers][judge][answer]: a place. Found by search, for the least of, in this order: difference of the
# sums of places, one answer's times at an end, repeated firsts and lasts, uneven pairs, repeated places.
EVEN: dict[tuple[int, int], tuple[str, ...]] = {
    (2, 2): ("01", "10"),
    (2, 3): ("012", "210"),
    (2, 4): ("0123", "3210"),
    (2, 5): ("01234", "43210"),
    (2, 6): ("012345", "543210"),
    (2, 7): ("0123456", "6543210"),
    (2, 8): ("01234567", "76543210"),
    (3, 2): ("01", "10", "01"),
    (3, 3): ("012", "120", "201"),
    (3, 4): ("0123", "1230", "3102"),
    (3, 5): ("01234", "23401", "42031"),
    (3, 6): ("012345", "451032", "325401"),
    (3, 7): ("0123456", "5263041", "4613502"),
    (3, 8): ("01234567", "47156203", "63720451"),
    (4, 2): ("01", "10", "01", "10"),
    (4, 3): ("012", "210", "021", "201"),
    (4, 4): ("0123", "3201", "2310", "1032"),
    (4, 5): ("01234", "10342", "43102", "34210"),
    (4, 6): ("012345", "542310", "135402", "421053"),
    (4, 7): ("0123456", "6534201", "4065132", "2610543"),
    (4, 8): ("01234567", "20735641", "76543210", "57042136"),
    (5, 2): ("01", "10", "10", "01", "01"),
    (5, 3): ("012", "021", "120", "201", "201"),
    (5, 4): ("0123", "1302", "2310", "3012", "2130"),
    (5, 5): ("01234", "42013", "30421", "23140", "14302"),
    (5, 6): ("012345", "205413", "340251", "354120", "521304"),
    (5, 7): ("0123456", "2056134", "6534210", "5642301", "2310564"),
    (5, 8): ("01234567", "34672051", "27560413", "65107342", "70315624"),
}


@lru_cache(maxsize=KEPT)
def choice_seed(task_id: str, request_seq: int) -> int:
    """What decides what must not depend on chance or on an agent's number: 48 bits, exact in JSON everywhere. The same
    after any crash, and not known to who answers."""
    digest = blake2b(f"{task_id}\n{request_seq}".encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big")


@lru_cache(maxsize=KEPT)
def shuffled(candidates: tuple[str, ...], seed: int) -> tuple[str, ...]:
    """The candidates in an order of this seed's. Their own order does not matter."""
    return tuple(sorted(candidates, key=lambda candidate: _hash(seed, candidate)))


@lru_cache(maxsize=KEPT)
def orders(judges: int, candidates: tuple[str, ...], seed: int) -> tuple[tuple[str, ...], ...]:
    """What each of `judges` (1 to 5) is shown: 1 to 8 candidates, the first is "A"."""
    base = shuffled(candidates, seed)
    rows = EVEN.get((judges, len(base)))
    if rows is None:  # one judge, or one candidate: no order is fairer than another
        return (base,) * judges
    return tuple(tuple(base[row.index(place)] for place in "01234567"[: len(base)]) for row in rows)


def is_whole_ranking(labels: str, shown: int) -> bool:
    """Each of the first `shown` labels once, and nothing else."""
    return sorted(labels) == list(LABELS[:shown])


def read_labels(labels: str, shown: Sequence[str]) -> tuple[str, ...] | None:
    """The candidates that the labels of a ballot name ("CAB": C is the best). None if it is not a whole ranking of what
    was shown."""
    if not is_whole_ranking(labels, len(shown)):
        return None
    return tuple(shown[LABELS.index(label)] for label in labels)


def _hash(seed: int, candidate: str) -> bytes:
    return blake2b(f"{seed}\n{candidate}".encode(), digest_size=8).digest()
