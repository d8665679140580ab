"""Our win rates beside two libraries that know nothing of them: evalica (any ballots) and pref_voting (Borda's count,
whole ballots). Neither is needed to run Parley; what is not installed is left out, with the reason.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from importlib.util import find_spec
from itertools import combinations
from random import Random

from benchmarks.report import Result, Target
from parley.broker.core.ballots import Ranking, count

CANDIDATES = "ABCDE"
PANELS = (3, 5)
# The share of the candidates that an incomplete ballot leaves out.
LEFT_OUT = 0.2
# evalica counts in floats.
TOLERANCE = 1e-9

# Whether our scores and winners are those of a library, for one profile.
Agrees = Callable[[Sequence[Ranking]], bool]
# How a library is installed. pref_voting needs other versions of what the service needs, and gets its own environment.
INSTALLED_BY = {
    "evalica": "uv sync --inexact --group choice-references",
    "pref_voting": "UV_PROJECT_ENVIRONMENT=.venv-borda uv run --no-default-groups --group borda-reference "
    "python -m benchmarks deliberate --parts references",
}


def measure(profiles: int, seed: int, told: Callable[[str], None]) -> list[Result]:
    """One result with a target for each library that is installed; none if there is none."""
    targets = []
    if _installed("evalica", told):
        targets.append(_compared("evalica: average win rates", profiles, seed, evalica_agrees()))
        incomplete = "evalica: … of incomplete ballots"
        targets.append(_compared(incomplete, profiles, seed, evalica_agrees(), left_out=LEFT_OUT))
    if _installed("pref_voting", told):
        targets.append(_compared("pref_voting: Borda counts and winners", profiles, seed, borda_agrees()))
    if not targets:
        return []
    panels = " or ".join(map(str, PANELS))
    how = f"{profiles:,} random profiles each of {panels} ballots over {len(CANDIDATES)} answers, seed {seed}"
    return [Result("references", how, targets)]


def _installed(library: str, told: Callable[[str], None]) -> bool:
    if find_spec(library) is not None:
        return True
    told(f"{library}: left out, it is not installed; {INSTALLED_BY[library]}")
    return False


def _compared(name: str, profiles: int, seed: int, agrees: Agrees, *, left_out: float = 0.0) -> Target:
    differ = sum(not agrees(profile) for profile in random_profiles(profiles, seed, left_out=left_out))
    return Target(f"differences from {name}", differ, 0, uncertainty=f"of {profiles:,}")


def random_profiles(profiles: int, seed: int, *, left_out: float) -> Iterator[list[str]]:
    rng = Random(f"profiles-{seed}-{left_out}")
    for _ in range(profiles):
        ballots = ["".join(rng.sample(CANDIDATES, len(CANDIDATES))) for _ in range(rng.choice(PANELS))]
        yield ["".join(each for each in ballot if rng.random() >= left_out) for ballot in ballots]


def evalica_agrees() -> Agrees:
    from evalica import Winner, average_win_rate

    def agrees(profile: Sequence[Ranking]) -> bool:
        pairs = [pair for ballot in profile for pair in combinations(ballot, 2)]
        ours = count(profile, CANDIDATES)
        if not pairs:
            return ours is None
        before, behind = zip(*pairs, strict=True)
        theirs: Mapping[str, float] = average_win_rate(
            before, behind, [Winner.X] * len(pairs)
        ).scores.to_dict()
        if ours is None:
            return False
        known = {name: score for name, score in ours.scores.items() if score is not None}
        highest = max(theirs.values())
        return (
            known.keys() == theirs.keys()
            and all(abs(float(score) - theirs[name]) < TOLERANCE for name, score in known.items())
            and set(ours.tied or (ours.winner,))
            == {name for name, score in theirs.items() if score > highest - TOLERANCE}
        )

    return agrees


def borda_agrees() -> Agrees:
    from pref_voting.profiles import Profile
    from pref_voting.scoring_methods import borda

    def agrees(profile: Sequence[Ranking]) -> bool:
        ours = count(profile, CANDIDATES)
        theirs = Profile([[CANDIDATES.index(name) for name in ballot] for ballot in profile])
        if ours is None:
            return False
        # Each ballot gives a candidate one point for each rival behind it.
        most = len(profile) * (len(CANDIDATES) - 1)
        points = {
            CANDIDATES[place]: Fraction(int(score), most) for place, score in theirs.borda_scores().items()
        }
        winners = {CANDIDATES[place] for place in borda(theirs)}
        return points == ours.scores and winners == set(ours.tied or (ours.winner,))

    return agrees
