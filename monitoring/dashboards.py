"""The Grafana dashboard, built as code: what an operator looks at first, in that order.

`python -m parley.monitoring.dashboards` writes `monitoring/dashboards/parley.json`, which is committed. `grafana-foundation-sdk` is a
development dependency only: nothing that runs in the service may import this module.

Counters are summed over processes. A consumer's backlog is not: every process reports the same consumer of the same stream, so
the largest is taken.
"""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import Dataquery, QueryEditorMode

OUTPUT = Path(__file__).parent / "dashboards" / "parley.json"

# Every query is narrowed by the two variables at the top of the dashboard.
CHOSEN = 'job=~"$job",instance=~"$instance"'
# Cancelled and rejected are the caller's doing: no answer was owed, and their short durations would flatter the rest.
OWED = 'ending!~"cancelled|rejected"'
WINDOW = "$__rate_interval"
NOT_CLOSED = 'state!="closed"'

# Grafana's own notation for "a number with a K or an M, and then this".
PER_SECOND = "count:/s"
# The same colour for the same ending wherever it shows.
COLOURS = {
    "completed": "green",
    "degraded": "yellow",
    "no answer": "red",
    "failed": "red",
    "timeout": "orange",
    "cancelled": "blue",
    "rejected": "purple",
}

# Grafana's grid is 24 wide. Eight high: a graph with a legend of four lines still shows its shape.
GRID, HEIGHT = 24, 8


@dataclass(frozen=True, slots=True)
class Query:
    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """`help` says what to do about it. `ceiling` fixes the top of the axis. `colours`: which legends have one of their own."""

    title: str
    unit: str
    help: str
    queries: tuple[Query, ...]
    stacked: bool = False
    bars: bool = False
    ceiling: float | None = None
    colours: Collection[str] = ()


def _series(metric: str, matchers: str = "") -> str:
    return f"{metric}{{{CHOSEN}{',' if matchers else ''}{matchers}}}"


def _rate(metric: str, by: str = "", matchers: str = "") -> str:
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate({_series(metric, matchers)}[{WINDOW}]))"


def _increase(metric: str, by: str) -> str:
    return f"sum by ({by}) (increase({_series(metric)}[{WINDOW}]))"


def _quantile(share: float, metric: str, by: str = "", matchers: str = "") -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {_rate(f'{metric}_bucket', labels, matchers)})"


def _quantiles(metric: str, shares: tuple[float, ...], matchers: str = "") -> tuple[Query, ...]:
    return tuple(
        Query(_quantile(share, metric, matchers=matchers), f"p{share * 100:.0f}") for share in shares
    )


def _share(matchers: str) -> str:
    ended = "parley_deliberations_ended_total"
    return f"{_rate(ended, matchers=matchers)} / {_rate(ended, matchers=OWED)}"


PROMISE = (
    Panel(
        "Endings per second",
        PER_SECOND,
        "Every accepted deliberation ends exactly once. Accepted above the endings for longer than a deadline: look at the "
        "backlog. Rejected: a caller sends what does not validate, the message is in DEAD_LETTERS with the reason.",
        (
            Query(_rate("parley_deliberations_ended_total", "ending"), "{{ending}}"),
            Query(_rate("parley_deliberations_accepted_total"), "accepted"),
        ),
        colours=("completed", "failed", "timeout", "cancelled", "rejected"),
    ),
    Panel(
        "How deliberations end",
        "percentunit",
        "Of those that were owed an answer (cancelled and rejected left out). Degraded: some agents are missing, see the agents' "
        "outcomes for why. No answer: too few agents answered, or the deadline came first.",
        (
            Query(_share('ending="completed",degraded="false"'), "completed"),
            Query(_share('ending="completed",degraded="true"'), "degraded"),
            Query(_share('ending=~"failed|timeout"'), "no answer"),
        ),
        stacked=True,
        ceiling=1,
        colours=("completed", "degraded", "no answer"),
    ),
    Panel(
        "Deliberation duration",
        "s",
        "From the request's arrival in the stream to its ending. When it rises, compare queue wait (too few slots) with agent "
        "duration (slow models). A p99 flat at a round number is the deadline.",
        _quantiles("parley_deliberation_duration_seconds", (0.5, 0.95, 0.99), OWED),
    ),
    Panel(
        "Consumer backlog",
        "short",
        "Messages that wait in the stream. `dispatch` waits for free slots: add workers or model servers. Any other should be "
        "near zero: its processes are down, disconnected, or too few; see /readyz.",
        (Query(f"max by (consumer) ({_series('parley_consumer_pending')})", "{{consumer}}"),),
    ),
)

AGENTS = (
    Panel(
        "Agent duration p95",
        "s",
        "One agent's work, retries included. All models slow: the model servers are full. One slow: look at that server. `other` "
        "are roles and models that callers chose themselves.",
        # `>= 0` drops the NaN of roles that had nothing to do.
        (
            Query(
                f"{_quantile(0.95, 'parley_agent_duration_seconds', 'role, model')} >= 0",
                "{{role}} {{model}}",
            ),
        ),
    ),
    Panel(
        "Agents' outcomes per second",
        PER_SECOND,
        "rate_limited, server_error: the model servers shed load or break, and retries did not help. unauthorized, "
        "model_not_found: wrong VLLM_API_KEY or VLLM_MODEL. context_too_long, bad_request: the caller's request. internal_error: "
        "a bug of ours, see the logs.",
        # Fifteen error types, most of them at zero: only those that happen are shown.
        (Query(f"{_rate('parley_agent_outcomes_total', 'outcome')} > 0", "{{outcome}}"),),
        bars=True,
        stacked=True,
    ),
    Panel(
        "Retries per second",
        PER_SECOND,
        "Model calls beyond an agent's first: passing trouble (429, 5xx, connections). Retries that rise while outcomes stay "
        "completed cost time only; when failures follow, the model servers need help.",
        (Query(_rate("parley_agent_retries_total", "role"), "{{role}}"),),
    ),
    Panel(
        "Timeouts per second",
        PER_SECOND,
        "Agents that ran out of time. deadline_exceeded: the deliberation's time was up, in the queue or at the model. "
        "first_byte_timeout: a server that accepts and stays silent. total_timeout: answers longer than the time for them.",
        (Query(_rate("parley_agent_timeouts_total", "kind"), "{{kind}}"),),
    ),
    Panel(
        "Queue wait",
        "s",
        "From the request's arrival to the start of an agent's work. Above a second with the pool full: more slots. Above a second "
        "with the pool idle: dispatch does not fetch, see its log and /readyz.",
        _quantiles("parley_agent_queue_seconds", (0.5, 0.95)),
    ),
    Panel(
        "Tokens per second",
        PER_SECOND,
        "As the model servers count them. Flat completion tokens while agents wait: the servers are at their limit.",
        (Query(_rate("parley_agent_tokens_total", "kind"), "{{kind}}"),),
    ),
)

SERVERS = (
    Panel(
        "Model servers left alone, by workers",
        "short",
        "How many workers have the breaker of a server open or half-open. On all of them: the server is down, or cannot be "
        "reached. On some: look at their network. An idle worker probes nothing: its open breaker tells of its last try.",
        (
            Query(
                f"sum by (endpoint, state) ({_series('parley_endpoint_breakers', NOT_CLOSED)})",
                "{{endpoint}} {{state}}",
            ),
        ),
        stacked=True,
    ),
    Panel(
        "Breakers opened",
        "short",
        "A worker's calls to a server failed several times in a row (PARLEY_BREAKER_FAILURES): refused, cut, silent, or 5xx. Once: a "
        "restart. Again and again: the server answers probes and breaks under work, see its log.",
        (Query(_increase("parley_endpoint_breaker_openings_total", "endpoint"), "{{endpoint}}"),),
        bars=True,
    ),
)

POOL = (
    Panel(
        "Pool: busy and slots",
        "short",
        "Calls that run, and how many can. Busy at the slots for long with a backlog: add actors (PARLEY_POOL_ACTORS), slots, or "
        "model servers. Slots that fall: actors die, see Ray's logs.",
        (
            Query(f"sum ({_series('parley_pool_busy')})", "busy"),
            Query(f"sum ({_series('parley_pool_slots')})", "slots"),
        ),
    ),
    Panel(
        "Share of slots busy, by process",
        "percentunit",
        "One process idle while others are full: it does not fetch. Restart it after a look at its log.",
        (Query(f"{_series('parley_pool_busy')} / {_series('parley_pool_slots')}", "{{instance}}"),),
        ceiling=1,
    ),
    Panel(
        "Processes scraped",
        "short",
        "Fewer than you run: Prometheus cannot reach some of them, or they are down.",
        (Query(f"sum by (job) ({_series('up')})", "{{job}}"),),
    ),
    Panel(
        "In hand, of what a process takes",
        "percentunit",
        "At 1 a process takes no more of this consumer's messages before it has settled some; the rest waits in the stream, where "
        "another replica can take it.",
        (
            Query(
                f"max by (consumer) ({_series('parley_consumer_held')} / {_series('parley_consumer_limit')})",
                "{{consumer}}",
            ),
        ),
    ),
)

TROUBLE = (
    Panel(
        "Dead letters",
        "short",
        "Messages nobody could use, by where they came from. Each is whole in the stream DEAD_LETTERS for 14 days, with the reason "
        "in its Parley-Reason header. deliberation.requested: mostly callers' mistakes. Anything else: ours.",
        (Query(_increase("parley_dead_letters_total", "subject"), "{{subject}}"),),
        bars=True,
    ),
    Panel(
        "Handler failures",
        "short",
        "Handlers that raised: a bug of ours. The message comes again, five times in all, then it is a dead letter. The log has the "
        "traceback under the consumer's name.",
        (Query(_increase("parley_handler_failures_total", "consumer"), "{{consumer}}"),),
        bars=True,
    ),
    Panel(
        "Outcomes ignored per second",
        PER_SECOND,
        "Late, doubled, or for nobody. Normal after an early finish, a deadline or a cancel. Steady without those: work is delivered "
        "twice, look for dying workers or an ack_wait that is too short.",
        (Query(_rate("parley_agent_outcomes_ignored_total"), "ignored"),),
    ),
    Panel(
        "Handed out, not settled",
        "short",
        "`dispatch` follows the busy slots. Another that stays high: a handler hangs, or NATS is slow. At 50,000 the server hands "
        "out nothing more.",
        (Query(f"max by (consumer) ({_series('parley_consumer_ack_pending')})", "{{consumer}}"),),
    ),
)

ROWS = (
    ("The promise", PROMISE),
    ("Agents", AGENTS),
    ("Model servers", SERVERS),
    ("Pool", POOL),
    ("Trouble", TROUBLE),
)
# Panels beside each other, by row; each divides the grid.
ABREAST = {"The promise": 4, "Agents": 3, "Model servers": 2, "Pool": 4, "Trouble": 4}


def build() -> model.Dashboard:
    """The whole dashboard. The same every time."""
    board = (
        dashboard.Dashboard("Parley")
        .uid("parley")
        .description("Deliberations, agents, pool and trouble. Generated by monitoring/dashboards.py.")
        .tags(["parley"])
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(_choice("job", "label_values(parley_deliberations_ended_total, job)"))
        .with_variable(
            _choice("instance", 'label_values(parley_deliberations_ended_total{job=~"$job"}, instance)')
        )
    )
    number = 0
    for title, panels in ROWS:
        number += 1
        board.with_row(dashboard.Row(title).id(number))
        for panel in panels:
            number += 1
            board.with_panel(_panel(panel, number, GRID // ABREAST[title]))
    return board.build()


def queries() -> list[tuple[str, str]]:
    """(panel title, PromQL) of every query in the built dashboard."""
    found = []
    for panel in _panels(build()):
        for target in panel.targets or ():
            assert isinstance(target, Dataquery), "every query here goes to Prometheus"
            found.append((panel.title or "", target.expr))
    return found


def text() -> str:
    """The dashboard as the JSON that Grafana reads."""
    return json.dumps(build(), cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _panels(built: model.Dashboard) -> Iterator[model.Panel]:
    for entry in built.panels or ():
        yield from entry.panels if isinstance(entry, model.RowPanel) else (entry,)


def _datasource() -> model.DataSourceRef:
    return model.DataSourceRef(type_val="prometheus", uid="${datasource}")


def _choice(name: str, values: str) -> dashboard.QueryVariable:
    # `.*` for all: a regular expression of every pod's name would outgrow the URL.
    return (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .datasource(_datasource())
        .query({"query": values, "refId": name})
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(model.VariableOption(selected=True, text="All", value="$__all"))
    )


def _panel(panel: Panel, number: int, width: int) -> timeseries.Panel:
    drawn = (
        timeseries.Panel()
        .id(number)
        .title(panel.title)
        .description(panel.help)
        .datasource(_datasource())
        .unit(panel.unit)
        .min(0)
        .span(width)
        .height(HEIGHT)
        .line_width(1)
        .fill_opacity(60 if panel.stacked or panel.bars else 0)
        .draw_style(shapes.GraphDrawStyle.BARS if panel.bars else shapes.GraphDrawStyle.LINE)
        .stacking(
            common.StackingConfig()
            .group("A")
            .mode(shapes.StackingMode.NORMAL if panel.stacked else shapes.StackingMode.NONE)
        )
        .tooltip(
            common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI).sort(shapes.SortOrder.DESCENDING)
        )
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(shapes.LegendDisplayMode.TABLE)
            .placement(shapes.LegendPlacement.BOTTOM)
            .calcs(["lastNotNull", "max"])
        )
    )
    if panel.ceiling is not None:
        drawn.max(panel.ceiling)
    for legend in panel.colours:
        colour = {"mode": model.FieldColorModeId.FIXED, "fixedColor": COLOURS[legend]}
        drawn.override_by_name(legend, [model.DynamicConfigValue(id_val="color", value=colour)])
    for place, query in enumerate(panel.queries):
        ref_id = chr(ord("A") + place)
        target = (
            prometheus.Dataquery()
            .ref_id(ref_id)
            .expr(query.expr)
            .legend_format(query.legend)
            .datasource(_datasource())
        )
        drawn.with_target(target.range().editor_mode(QueryEditorMode.CODE))
    return drawn


if __name__ == "__main__":
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(text(), encoding="utf-8")
