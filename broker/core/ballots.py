"""What the ballots of a panel say together: who wins, by how much, and who saw it otherwise.

A candidate's score is its mean pairwise win rate: for each rival, the share of the ballots comparing the two that put
the candidate first; the mean of these. On whole ballots that is Borda's count, on incomplete ones it is defined too, and
anybody can recompute it. It is not a Condorcet rule: who beats each rival alone wins in seven of eight panels, not in
all. All is counted in fractions, so that equal is equal.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from itertools import combinations
from math import lcm

# The candidates of one ballot, the best first. None twice.
Ranking = Sequence[str]
# So many of so many.
Share = tuple[int, int]


class TieBreak(StrEnum):
    """The rule that found a winner among equals. WORST_PLACES: their places on the ballots are compared, the worst
    first; who stands nowhere as far down is the winner. Comparisons among the tied and first places would favour an
    answer that has turned some judges: it is elected in 12 % of panels instead of 9 % (`make deliberate`). SEED: nothing
    told them apart."""

    WORST_PLACES = "worst_places"
    SEED = "seed"


@dataclass(frozen=True, slots=True)
class Result:
    """`scores`: 0 to 1; None for a candidate that no ballot compares with another. `tied`: all that share the highest
    score, if there are several. `tie_break`: how `winner` was found among them."""

    winner: str
    scores: Mapping[str, Fraction | None]
    tied: tuple[str, ...] = ()
    tie_break: TieBreak | None = None

    @property
    def runner_up(self) -> str | None:
        """The rival with the highest score; of several, the first. None if the winner has none."""
        rivals = {
            name: score for name, score in self.scores.items() if name != self.winner and score is not None
        }
        return max(rivals, key=lambda name: rivals[name], default=None)

    @property
    def margin(self) -> Fraction | None:
        """How far the winner is before the runner-up."""
        won, other = self.scores[self.winner], self.scores.get(self.runner_up or "")
        return None if won is None or other is None else won - other


def count(ballots: Sequence[Ranking], candidates: Sequence[str]) -> Result | None:
    """Who wins. `candidates`: in the order that decides where nothing else does, which must not depend on who they are.
    None if no ballot compares two of them."""
    ballots = [ballot for ballot in ballots if len(ballot) > 1]
    scores = win_rates(ballots, candidates)
    known = {name: score for name, score in scores.items() if score is not None}
    if not known:
        return None
    tied = _highest(known)
    if len(tied) == 1:
        return Result(tied[0], scores)
    winner, rule = _break_tie(ballots, tied)
    return Result(winner, scores, tuple(tied), rule)


def win_rates(ballots: Sequence[Ranking], candidates: Sequence[str]) -> dict[str, Fraction | None]:
    places = [{name: place for place, name in enumerate(ballot)} for ballot in ballots]
    return {name: _win_rate(name, places) for name in candidates}


def _win_rate(name: str, places: Sequence[Mapping[str, int]]) -> Fraction | None:
    shares: list[Share] = []
    having = [ballot for ballot in places if name in ballot]
    for rival in {rival for ballot in having for rival in ballot} - {name}:
        comparing = [ballot for ballot in having if rival in ballot]
        shares.append((sum(ballot[name] < ballot[rival] for ballot in comparing), len(comparing)))
    return _mean(shares)


def _mean(shares: Sequence[Share]) -> Fraction | None:
    if not shares:
        return None
    parts = shares[0][1]
    # Whole ballots: one fraction instead of many, which are slow.
    if all(share[1] == parts for share in shares):
        return Fraction(sum(share[0] for share in shares), parts * len(shares))
    return sum((Fraction(*share) for share in shares), Fraction()) / len(shares)


def _break_tie(ballots: Sequence[Ranking], tied: Sequence[str]) -> tuple[str, TieBreak]:
    worst = {name: _places(ballots, name) for name in tied}
    least = min(worst.values())
    left = [name for name in tied if worst[name] == least]
    return left[0], TieBreak.WORST_PLACES if len(left) == 1 else TieBreak.SEED


def _places(ballots: Sequence[Ranking], name: str) -> list[Fraction]:
    """Where it stands, 0 the first and 1 the last, on each ballot that has it; the worst first."""
    found = [Fraction(list(ballot).index(name), len(ballot) - 1) for ballot in ballots if name in ballot]
    return sorted(found, reverse=True)


def _highest(points: Mapping[str, Fraction | int]) -> list[str]:
    most = max(points.values())
    return [name for name, number in points.items() if number == most]


# ── what the ballots say of the winner ────────────────────────────────────────────────────────────────────────────


def support(ballots: Iterable[Ranking], winner: str, runner_up: str) -> tuple[int, int]:
    """The ballots that put the winner before the runner-up, of those that compare the two."""
    comparing = [list(ballot) for ballot in ballots if winner in ballot and runner_up in ballot]
    return sum(ballot.index(winner) < ballot.index(runner_up) for ballot in comparing), len(comparing)


def agreement(ballots: Sequence[Ranking]) -> Fraction | None:
    """The share of the pairs that two ballots order alike, 0 to 1, mean over the pairs of ballots. None without two
    ballots that share a pair."""
    shares = [share for one, other in combinations(ballots, 2) if (share := _alike(one, other)) is not None]
    return _mean(shares)


def _alike(one: Ranking, other: Ranking) -> Share | None:
    places = {name: place for place, name in enumerate(other)}
    both = [name for name in one if name in places]
    pairs = list(combinations(both, 2))
    return (sum(places[a] < places[b] for a, b in pairs), len(pairs)) if pairs else None


def dissent(ballots: Mapping[str, Ranking], winner: str) -> dict[str, tuple[str, ...]]:
    """The other candidates that a ballot put first, of the ballots that have the winner too, and the judges of these
    ballots. The most often named first."""
    judges: dict[str, tuple[str, ...]] = {}
    for judge, ballot in ballots.items():
        if winner in ballot and ballot[0] != winner:
            judges[ballot[0]] = (*judges.get(ballot[0], ()), judge)
    return dict(sorted(judges.items(), key=lambda item: -len(item[1])))


# ── in words ──────────────────────────────────────────────────────────────────────────────────────────────────────


def denominator(scores: Iterable[Fraction | None], ballots: int, candidates: int) -> int:
    """The one number that all these scores are told in: the comparisons of each candidate where every ballot is whole
    (3 ballots of 5 answers: 12)."""
    return lcm(ballots * (candidates - 1) or 1, *(score.denominator for score in scores if score is not None))


def told(score: Fraction, parts: int) -> str:
    """ "7/12"."""
    return f"{score * parts}/{parts}"
