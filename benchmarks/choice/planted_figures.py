"""The figures of the planted world, each with its target and its standard error."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction

from benchmarks.choice.planted_world import Favoured, Times, World
from benchmarks.choice.simulated_deliberation import PromptlyReporting, deliberate
from benchmarks.choice.statistics import standard_error
from benchmarks.choice.trials import Experiment, run
from benchmarks.report import Result, Target
from parley.broker.core.judging_orders import LABELS, MAX_SHOWN

Sums = Mapping[str, float]

# A bias of two spreads from the first place to the last, by the number of answers: least share of the best found.
BIASED_LEAST = {3: 64.0, 5: 51.0, 8: 48.0}
TURNS_A_JUDGE = 0.2
LOST_BALLOTS = 0.4
DEADLINE_MEDIANS = 3
PLACE_PANELS = 100

EDITED_MOST = 0.05
# What the chosen answer of five is worth, in spreads, where a second one is worse by 0.3 in the mean.
HARMED_LEAST = 0.94
HEATS_LEAST = {16: 76.0, 64: 73.0}

DEFAULT = Experiment("default", World())
ONE_JUDGE = Experiment("one-judge", World(judges=1))
HOSTILE = Experiment("hostile", World(hostile=TURNS_A_JUDGE))
LOSSES = Experiment("losses", World(lost=LOST_BALLOTS))
# An editor whose text is worse than the winner's by a spread, as good, or better.
EDITORS = {gain: Experiment(f"editor-{gain:+g}", World(editor=gain)) for gain in (-1.0, 0.0, 1.0)}
# A second round, whose answers are worse, as good, or better; and the same if only they could be chosen.
ROUNDS = {
    (gain, last_only): Experiment(
        f"round-{gain:+g}{'-last' if last_only else ''}", World(revision=gain, last_only=last_only)
    )
    for gain in (-0.3, 0.0, 0.3)
    for last_only in (False, True)
}
# More answers than a judge may be shown.
HEATS = {answers: Experiment(f"heats-{answers}", World(answers=answers)) for answers in (16, 32, 64)}
IN_TIME = Experiment(
    "in-time", World(times=Times()), timeout_seconds=DEADLINE_MEDIANS * Times().answer_median
)
BIASED = {
    answers: [
        Experiment(f"{favoured}-{answers}", World(answers=answers, beta=2.0, favoured=favoured))
        for favoured in Favoured
    ]
    for answers in BIASED_LEAST
}


def measure(trials: int, seed: int, processes: int | None, told: Callable[[str], None]) -> list[Result]:
    """Every figure. `told`: takes a line for each experiment that is done."""
    experiments = [
        DEFAULT,
        ONE_JUDGE,
        HOSTILE,
        LOSSES,
        IN_TIME,
        *EDITORS.values(),
        *ROUNDS.values(),
        *HEATS.values(),
        *(each for row in BIASED.values() for each in row),
    ]
    found: dict[str, Sums] = {}
    for experiment, sums in run(experiments, trials, seed, processes):
        found[experiment.name] = sums
        told(f"{experiment.name}: the best answer found in {percent(sums, 'best'):.1f} %")
    return [*judge(found, seed), place_only(PLACE_PANELS, seed)]


def judge(found: Mapping[str, Sums], seed: int) -> list[Result]:
    """`found`: the sums of each experiment, by name."""
    return [
        _default(found[DEFAULT.name], found[ONE_JUDGE.name], seed),
        biased(found, seed),
        _hostile(found[HOSTILE.name], seed),
        _losses(found[LOSSES.name], seed),
        _in_time(found[IN_TIME.name], seed),
        _editors(found, seed),
        _rounds(found, seed),
        _heats(found, seed),
    ]


def percent(sums: Sums, what: str) -> float:
    return 100 * sums[what] / sums["trials"]


def share(name: str, sums: Sums, what: str, bound: float, *, at_least: bool = True) -> Target:
    """A target for the share of the trials in which that happened."""
    error = f"± {100 * standard_error(sums[what], sums['trials']):.2f} SE"
    return Target(name, percent(sums, what), bound, "%", at_least=at_least, uncertainty=error)


def _how(sums: Sums, seed: int, what: str) -> str:
    return f"{sums['trials']:,.0f} deliberations through react, seed {seed}: {what}"


def _default(sums: Sums, one_judge: Sums, seed: int) -> Result:
    targets = [share("best of 5 found by 3 judges", sums, "best", 57.0)]
    figures = {
        "of what the best answer gains over the mean one, %": 100 * sums["gained"] / sums["to_gain"],
        "best of 5 found by 1 judge, %": percent(one_judge, "best"),
        "best of 5 found by chance, %": 20.0,
    }
    world = "judges err by 1 spread, 0.44 of it in common, and favour the first place by 1"
    return Result("planted", _how(sums, seed, world), targets, figures)


def biased(found: Mapping[str, Sums], seed: int) -> Result:
    targets, figures = [], {}
    for answers, bound in BIASED_LEAST.items():
        rows = {each: found[each.name] for each in BIASED[answers]}
        least = min(rows, key=lambda each: percent(rows[each], "best"))
        name = f"best of {answers} found, places favoured: worst, {least.world.favoured}"
        targets.append(share(name, rows[least], "best", bound))
        for experiment, sums in rows.items():
            figures[f"of {answers}, favoured: {experiment.world.favoured}, %"] = percent(sums, "best")
    trials = next(iter(found.values()))
    return Result("place bias", _how(trials, seed, "each row; places worth 2 spreads"), targets, figures)


def _hostile(sums: Sums, seed: int) -> Result:
    target = share("hostile answer elected", sums, "hostile", 10.0, at_least=False)
    how = f"1 of 5 is 1 spread below the mean and turns each of 3 judges with chance {TURNS_A_JUDGE:g}"
    return Result("hostile", _how(sums, seed, how), [target], {"best found, %": percent(sums, "best")})


def _losses(sums: Sums, seed: int) -> Result:
    lost = f"{sums['lost']:,.0f} lost ballots"
    targets = [
        share("a winner, 40 % of ballots lost", sums, "winner", 93.0),
        share("best of 5 found, 40 % lost", sums, "best", 51.0),
        Target("losses not named in the ending", sums["unnamed"], 0, uncertainty=f"of {lost}"),
    ]
    figures = {"best found where there is a winner, %": 100 * sums["best"] / sums["winner"]}
    how = f"{lost}: silent, failed or no ranking; no winner counts as not found"
    return Result("lost ballots", _how(sums, seed, how), targets, figures)


def _in_time(sums: Sums, seed: int) -> Result:
    targets = [
        share(f"a winner within {DEADLINE_MEDIANS} median answers", sums, "winner", 97.0),
        Target("endings after the deadline", sums["late"], 0, uncertainty=f"of {sums['trials']:,.0f}"),
    ]
    times = IN_TIME.world.times or Times()
    how = (
        f"deadline {IN_TIME.timeout_seconds:g} s, answers {times.answer_median:g} s and ballots "
        f"{times.ballot_median:g} s in the median, log-normal {times.spread:g}"
    )
    figures = {
        "best found, %": percent(sums, "best"),
        "gain over the mean answer, spreads": sums["gained"] / sums["trials"],
    }
    return Result("deadline", _how(sums, seed, how), targets, figures)


def _editors(found: Mapping[str, Sums], seed: int) -> Result:
    figures: dict[str, float] = {}
    cost = 0.0
    for gain, experiment in EDITORS.items():
        sums = found[experiment.name]
        won, answered, written = (sums[what] / sums["trials"] for what in ("won", "answered", "written"))
        figures[f"editor {gain:+g}: the winner alone"] = won
        figures[f"editor {gain:+g}: with the editor, confirmed"] = answered
        figures[f"editor {gain:+g}: always taken"] = written
        figures[f"editor {gain:+g}: its text is the answer, %"] = percent(sums, "edited")
        if gain == min(EDITORS):
            cost = won - answered
    target = Target("quality lost by an editor worse by a spread", cost, EDITED_MOST, at_least=False)
    how = "the text is as good as the winner, more or less, ± 1; three judges compare the two"
    return Result("synthesis", _how(found[EDITORS[-1.0].name], seed, how), [target], figures)


def _rounds(found: Mapping[str, Sums], seed: int) -> Result:
    def worth(name: str) -> float:
        return found[name]["won"] / found[name]["trials"]

    figures = {"one round": worth(DEFAULT.name)}
    for (gain, last_only), experiment in ROUNDS.items():
        which = "last answers alone" if last_only else "first answers kept"
        figures[f"second answers {gain:+g}: {which}"] = worth(experiment.name)
    name = "the chosen answer, second ones worse by 0.3, first ones kept"
    target = Target(name, worth(ROUNDS[-0.3, False].name), HARMED_LEAST, at_least=True)
    how = "worth of the chosen answer of 5 agents, in spreads; a second one is the first, more or less, ± 0.5"
    return Result("second round", _how(found[ROUNDS[-0.3, False].name], seed, how), [target], figures)


def _heats(found: Mapping[str, Sums], seed: int) -> Result:
    figures: dict[str, float] = {}
    targets = []
    for answers, experiment in HEATS.items():
        sums = found[experiment.name]
        gained = 100 * sums["gained"] / sums["to_gain"]
        ballots = sums["ballots"] / sums["trials"]
        figures[f"of {answers}, {ballots:g} ballots: best found, %"] = percent(sums, "best")
        if answers in HEATS_LEAST:
            name = f"of what the best of {answers} gains, with {ballots:g} ballots"
            targets.append(Target(name, gained, HEATS_LEAST[answers], "%", at_least=True))
        else:
            figures[f"of {answers}: of what the best gains, %"] = gained
        most = sums["most_shown"] / sums["trials"]
        targets.append(Target(f"answers in a prompt, of {answers}", most, MAX_SHOWN, at_least=False))
    return Result("heats", _how(found[HEATS[16].name], seed, "judges as above"), targets, figures)


# ── judges that look at nothing but places ────────────────────────────────────────────────────────────────────────


def place_only(panels: int, seed: int) -> Result:
    """`panels`: of each size and direction."""
    kinds = [
        (answers, judges, last_first)
        for answers in range(3, 9)
        for judges in range(2, 6)
        for last_first in (False, True)
    ]
    untied, uneven = 0, 0
    for answers, judges, last_first in kinds:
        for margin, tied in _place_panels(answers, judges, panels, seed, last_first=last_first):
            untied += margin != 0 or tied < 2
            # An even sum of places can be shared by all; else the sums differ by one.
            uneven += judges * (answers - 1) % 2 == 0 and tied < answers
    of = f"of {panels * len(kinds):,}"
    targets = [
        Target("panels without an exact tie at the top", untied, 0, uncertainty=of),
        Target("… without a tie of all, where places can be shared evenly", uneven, 0, uncertainty=of),
    ]
    how = f"3 to 8 answers, 2 to 5 judges that rank by place only, the first or the last best, seed {seed}"
    return Result("place only", how, targets)


def _place_panels(
    answers: int, judges: int, panels: int, seed: int, *, last_first: bool
) -> Iterator[tuple[Fraction, int]]:
    """The margin, and how many are tied, of each panel."""

    def rank(_: str, shown: Sequence[str]) -> str:
        labels = LABELS[: len(shown)]
        return labels[::-1] if last_first else labels

    for number in range(panels):
        name = f"places-{seed}-{answers}-{judges}-{number}"
        chosen = deliberate(PromptlyReporting(rank), name, agents=answers, judges=judges).choice
        assert chosen is not None, "every judge reports"
        assert chosen.margin is not None, "whole ballots compare all"
        yield Fraction(chosen.margin), len(chosen.tied)
