"""Draw what `curves` has measured, as SVG."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.sweep import AGENTS, CONCURRENCIES, FANS, IN_FLIGHT, fanned

# Colours of Okabe and Ito, which colour-blind readers can tell apart; each has its own mark too.
STYLES = {
    "parley": ("Parley", "#D55E00", "o"),
    "bare": ("plain asyncio loop", "#000000", "s"),
    "dramatiq": ("Dramatiq group (Redis)", "#0072B2", "^"),
    "taskiq": ("Taskiq (NATS, Redis)", "#009E73", "D"),
    "celery": ("Celery chord (Redis)", "#CC79A7", "v"),
    "actor": ("a Ray actor each", "#E69F00", "P"),
}
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Plot:
    """`x`, `y`: figures of a row. `on`: whether a row is on the curve."""

    file: str
    title: str
    x: str
    y: str
    x_label: str
    y_label: str
    ticks: Sequence[int]
    on: Callable[[Row], bool]
    log_y: bool = False


def _with_three(row: Row) -> bool:
    return row["agents"] == AGENTS and row["concurrency"] in CONCURRENCIES


def _fanned(row: Row) -> bool:
    return bool(row["agents"] in FANS and row["concurrency"] == fanned(row["agents"]).concurrency)


AT_A_TIME = "deliberations at a time"
PLOTS = (
    Plot(
        "throughput.svg",
        f"Throughput, {AGENTS} agents a deliberation",
        *("concurrency", "calls_per_second", AT_A_TIME, "agent calls a second"),
        ticks=CONCURRENCIES,
        on=_with_three,
    ),
    Plot(
        "latency.svg",
        f"Latency of a deliberation (median), {AGENTS} agents each",
        *("concurrency", "p50_ms", AT_A_TIME, "p50, ms"),
        ticks=CONCURRENCIES,
        on=_with_three,
        log_y=True,
    ),
    Plot(
        "agents.svg",
        f"Throughput against fan-out, about {IN_FLIGHT} calls in flight",
        *("agents", "calls_per_second", "agents a deliberation", "agent calls a second"),
        ticks=FANS,
        on=_fanned,
    ),
)


def lines(plot: Plot, medians: Sequence[Row]) -> dict[str, list[tuple[float, float]]]:
    """By system, the points of its curve from left to right."""
    found: dict[str, list[tuple[float, float]]] = {}
    for name in STYLES:
        rows = sorted(
            (row for row in medians if row["system"] == name and plot.on(row)),
            key=lambda row: float(row[plot.x]),
        )
        if rows:
            found[name] = [(row[plot.x], row[plot.y]) for row in rows]
    return found


def caption(found: Mapping[str, Any]) -> str:
    """What was measured, on which machine, and when."""
    machine, runs = found["machine"], len(found["runs"])
    how = f"model {found['model_latency_ms']:g} ms, medians of {runs} run{'s' if runs != 1 else ''}, all on one machine"
    return f"{how}: {machine['cpu']}, {machine['cores']} cores, {found['date'][:10]}"


def draw(plot: Plot, found: Mapping[str, Any], folder: Path) -> Path:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = plot.file  # the same file for the same figures
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7.6, 4.6), layout="constrained")
    for name, points in lines(plot, found["medians"]).items():
        label, colour, mark = STYLES[name]
        width = 2.4 if name == "parley" else 1.5
        axes.plot(
            *zip(*points, strict=True), label=label, color=colour, marker=mark, linewidth=width, markersize=5
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(plot.ticks, labels=[str(tick) for tick in plot.ticks])
    axes.minorticks_off()
    if plot.log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(plot.y_label)
    axes.set_title(plot.title, loc="left", fontsize=12)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.supxlabel(caption(found), fontsize=7, color="#555555")
    path = folder / plot.file
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", type=Path, help="the file that `curves` has written")
    parser.add_argument("folder", type=Path)


def main(options: argparse.Namespace) -> int:
    found = json.loads(options.results.read_text())
    options.folder.mkdir(parents=True, exist_ok=True)
    for plot in PLOTS:
        print(draw(plot, found, options.folder))
    return 0
