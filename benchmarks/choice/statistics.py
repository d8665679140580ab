"""How sure a measured share is: standard errors, exact intervals, and McNemar's exact test. Pure."""

from collections.abc import Callable
from math import comb, sqrt

# Outside of a 95 % interval, on each side.
TAIL = 0.025
# Halvings of the interval 0 to 1: more than a float has digits.
HALVINGS = 60


def standard_error(found: float, trials: float) -> float:
    """Of the share `found` of `trials`."""
    share = found / trials
    return sqrt(share * (1 - share) / trials)


def mean_and_error(sum_: float, sum_of_squares: float, count: float) -> tuple[float, float]:
    """Mean and its standard error."""
    mean = sum_ / count
    spread = max(0.0, sum_of_squares / count - mean * mean)
    return mean, sqrt(spread / max(1.0, count - 1))


def exact_interval(found: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of Clopper and Pearson for the share `found` of `trials`."""
    low = 0.0 if found == 0 else _share_at(lambda share: 1 - _at_most(found - 1, trials, share) < TAIL)
    high = 1.0 if found == trials else _share_at(lambda share: _at_most(found, trials, share) > TAIL)
    return low, high


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided exact probability that so different counts of discordant pairs are chance."""
    pairs = only_first + only_second
    tail = sum(comb(pairs, count) for count in range(min(only_first, only_second) + 1))
    return float(min(1.0, 2 * tail / 2**pairs))


def _at_most(found: int, trials: int, share: float) -> float:
    """The chance of at most `found` of `trials`, each of which has the chance `share`."""
    return sum(
        comb(trials, count) * share**count * (1 - share) ** (trials - count) for count in range(found + 1)
    )


def _share_at(is_below: Callable[[float], bool]) -> float:
    """Where `is_below` changes from true to false."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return (low + high) / 2
