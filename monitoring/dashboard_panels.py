"""What the Grafana dashboard shows: rows, panels and queries, in the order in which an operator needs them.

Counters are summed over processes. A consumer's backlog is not: every process reports the same consumer of the same
stream, so the largest value is taken. Like monitoring/dashboards.py, this file is not in the wheel.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

# The dashboard's two variables select the series of every query.
CHOSEN = 'job=~"$job",instance=~"$instance"'
# Without cancelled and rejected. The caller causes those, and their short durations would improve the quantiles.
OWED = 'ending!~"cancelled|rejected"'
WINDOW = "$__rate_interval"
NOT_CLOSED = 'state!="closed"'
LONGEST = 'longest="true"'

# Grafana's unit for a number with K or M and this suffix.
PER_SECOND = "count:/s"
# An ending has the same colour in every panel.
COLOURS = {
    "completed": "green",
    "degraded": "yellow",
    "no answer": "red",
    "failed": "red",
    "timeout": "orange",
    "cancelled": "blue",
    "rejected": "purple",
}


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph.

    `unit`: one of Grafana's. `help`: what the graph shows, and what to do when it looks wrong. `queries`: PromQL and
    legend. `ceiling`: the top of the axis; None: Grafana chooses it. `colours`: the legends drawn in their colour of
    COLOURS.
    """

    title: str
    unit: str
    help: str
    queries: tuple[tuple[str, str], ...]
    stacked: bool = False
    bars: bool = False
    ceiling: float | None = None
    colours: Collection[str] = ()


def _panel(title: str, unit: str, text: str, *queries: tuple[str, str], **how: Any) -> Panel:
    """`text`: the help, wrapped for this file. `how`: the panel's other fields."""
    return Panel(title, unit, " ".join(text.split()), queries, **how)


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading, so many beside each other."""

    title: str
    columns: int
    panels: tuple[Panel, ...]


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


def _quantiles(metric: str, shares: tuple[float, ...], matchers: str = "") -> list[tuple[str, str]]:
    return [(_quantile(share, metric, matchers=matchers), f"p{share * 100:.0f}") for share in shares]


def _share(matchers: str) -> str:
    ended = "parley_deliberations_ended_total"
    return f"{_rate(ended, matchers=matchers)} / {_rate(ended, matchers=OWED)}"


# fmt: off
PROMISE = Row("The promise", 4, (
    _panel("Endings per second", PER_SECOND, """
        Every accepted deliberation ends exactly once. Accepted above the endings for longer than a
        deadline: look at the backlog. Rejected: a caller sends what does not validate, the message is in
        DEAD_LETTERS with the reason.""",
        (_rate("parley_deliberations_ended_total", "ending"), "{{ending}}"),
        (_rate("parley_deliberations_accepted_total"), "accepted"),
        colours=("completed", "failed", "timeout", "cancelled", "rejected")),
    _panel("How deliberations end", "percentunit", """
        Of those that were owed an answer (cancelled and rejected left out). Degraded: some agents are
        missing, see the agents' outcomes for why. No answer: too few agents answered, or the deadline
        came first.""",
        (_share('ending="completed",degraded="false"'), "completed"),
        (_share('ending="completed",degraded="true"'), "degraded"),
        (_share('ending=~"failed|timeout"'), "no answer"), stacked=True, ceiling=1,
        colours=("completed", "degraded", "no answer")),
    _panel("Deliberation duration", "s", """
        From the request's arrival in the stream to its ending. When it rises, compare queue wait (too few
        slots) with agent duration (slow models). A p99 flat at a round number is the deadline.""",
        *_quantiles("parley_deliberation_duration_seconds", (0.5, 0.95, 0.99), OWED)),
    _panel("Consumer backlog", "short", """
        Messages that wait in the stream. `dispatch` waits for free slots: add workers or model servers.
        Any other should be near zero: its processes are down, disconnected, or too few; see /readyz.""",
        (f"max by (consumer) ({_series('parley_consumer_pending')})", "{{consumer}}")),
))

AGENTS = Row("Agents", 3, (
    # `>= 0` drops the NaN of roles without work.
    _panel("Agent duration p95", "s", """
        One agent's work, retries included. All models slow: the model servers are full. One slow: look at
        that server. `other` are roles and models that callers chose themselves.""",
        (f"{_quantile(0.95, 'parley_agent_duration_seconds', 'role, model')} >= 0", "{{role}} {{model}}")),
    # `> 0` drops the error types that do not occur.
    _panel("Agents' outcomes per second", PER_SECOND, """
        rate_limited, server_error: the model servers shed load or break, and retries did not help.
        unauthorized, model_not_found: wrong VLLM_API_KEY or VLLM_MODEL. context_too_long, bad_request:
        the caller's request. internal_error: a bug of ours, see the logs.""",
        (f"{_rate('parley_agent_outcomes_total', 'outcome')} > 0", "{{outcome}}"), bars=True, stacked=True),
    _panel("Retries per second", PER_SECOND, """
        Model calls beyond an agent's first: passing trouble (429, 5xx, connections). Retries that rise
        while outcomes stay completed cost time only; when failures follow, the model servers need help.""",
        (_rate("parley_agent_retries_total", "role"), "{{role}}")),
    _panel("Timeouts per second", PER_SECOND, """
        Agents that ran out of time. deadline_exceeded: the deliberation's time was up, in the queue or at
        the model. first_byte_timeout: a server that accepts and stays silent. total_timeout: answers
        longer than the time for them.""",
        (_rate("parley_agent_timeouts_total", "kind"), "{{kind}}")),
    _panel("Queue wait", "s", """
        From the request's arrival to the start of an agent's work. Above a second with the pool full:
        more slots. Above a second with the pool idle: dispatch does not fetch, see its log and /readyz.""",
        *_quantiles("parley_agent_queue_seconds", (0.5, 0.95))),
    _panel("Tokens per second", PER_SECOND, """
        As the model servers count them. Flat completion tokens while agents wait: the servers are at
        their limit.""",
        (_rate("parley_agent_tokens_total", "kind"), "{{kind}}")),
))

CHOICES = Row("Choices", 3, (
    # `> 0` drops what does not occur.
    _panel("Choices per second", PER_SECOND, """
        With `select: judge` or `vote`. Tied: nothing that was said tells the best apart. Indicated: fewer
        ballots than half came. no_ballots: nobody compared the answers, and nobody wins; see the ballots.""",
        (f"{_rate('parley_selections_total', 'status')} > 0", "{{status}}"), bars=True, stacked=True),
    _panel("Ballots", "percentunit", """
        Repaired: the ranking had to be looked for in the judge's words. Invalid: words without a ranking, or
        an error. When it rises: does the model server take `response_format`, is the judges' model strong
        enough? Missing: no word by the phase's limit; see the phases' durations.""",
        (f"{_rate('parley_ballots_total', 'result')} / ignoring(result) group_left {_rate('parley_ballots_total')}",
            "{{result}}"), stacked=True, ceiling=1),
    _panel("What is put first", "percentunit", """
        The judges' place bias: each sees the answers in another order, so of three answers every place should
        come first a third of the time. One that leads all day: these judges look at places. `longest`: the
        answer put first is the longest of those shown; of three, a third of the time is fair.""",
        (f"{_rate('parley_first_place_total', 'place')} / ignoring(place) group_left {_rate('parley_first_place_total')}",
            "place {{place}}"),
        (f"{_rate('parley_longest_first_total', matchers=LONGEST)} / {_rate('parley_longest_first_total')}",
            "longest"), ceiling=1),
    _panel("Winner's margin", "percentunit", """
        How far winners are before the next answer, half of them further. Near zero: the answers are alike, or
        these judges look at places; then what is put first tells which.""",
        (_quantile(0.5, "parley_winner_margin"), "median"), ceiling=1),
    _panel("Phase duration p95", "s", """
        How long phases were open, of deliberations that choose. A phase that is mostly closed by its limit
        has too little time: a longer `timeout_seconds`, or fewer agents.""",
        (f"{_quantile(0.95, 'parley_phase_seconds', 'phase, closed_by')} >= 0", "{{phase}}, closed by {{closed_by}}")),
))

SERVERS = Row("Model servers", 2, (
    _panel("Model servers left alone, by workers", "short", """
        How many workers have the breaker of a server open or half-open. On all of them: the server is
        down, or cannot be reached. On some: look at their network. An idle worker probes nothing: its
        open breaker tells of its last try.""",
        (f"sum by (endpoint, state) ({_series('parley_endpoint_breakers', NOT_CLOSED)})",
         "{{endpoint}} {{state}}"),
        stacked=True),
    _panel("Breakers opened", "short", """
        A worker's calls to a server failed several times in a row (PARLEY_BREAKER_FAILURES): refused,
        cut, silent, or 5xx. Once: a restart. Again and again: the server answers probes and breaks under
        work, see its log.""",
        (_increase("parley_endpoint_breaker_openings_total", "endpoint"), "{{endpoint}}"), bars=True),
))

POOL = Row("Pool", 4, (
    _panel("Pool: busy and slots", "short", """
        Calls that run, and how many can. Busy at the slots for long with a backlog: add actors
        (PARLEY_POOL_ACTORS), slots, or model servers. Slots that fall: actors die, see Ray's logs.""",
        (f"sum ({_series('parley_pool_busy')})", "busy"), (f"sum ({_series('parley_pool_slots')})", "slots")),
    _panel("Share of slots busy, by process", "percentunit", """
        One process idle while others are full: it does not fetch. Restart it after a look at its log.""",
        (f"{_series('parley_pool_busy')} / {_series('parley_pool_slots')}", "{{instance}}"), ceiling=1),
    _panel("Processes scraped", "short", """
        Fewer than you run: Prometheus cannot reach some of them, or they are down.""",
        (f"sum by (job) ({_series('up')})", "{{job}}")),
    _panel("In hand, of what a process takes", "percentunit", """
        At 1 a process takes no more of this consumer's messages before it has settled some; the rest
        waits in the stream, where another replica can take it.""",
        (f"max by (consumer) ({_series('parley_consumer_held')} / {_series('parley_consumer_limit')})",
         "{{consumer}}")),
))

TROUBLE = Row("Trouble", 3, (
    _panel("Dead letters", "short", """
        Messages nobody could use, by where they came from. Each is whole in the stream DEAD_LETTERS for
        14 days, with the reason in its Parley-Reason header. deliberation.requested: mostly callers'
        mistakes. Anything else: ours.""",
        (_increase("parley_dead_letters_total", "subject"), "{{subject}}"), bars=True),
    _panel("Handler failures", "short", """
        Handlers that raised: a bug of ours. The message comes again, five times in all, then it is a dead
        letter. The log has the traceback under the consumer's name.""",
        (_increase("parley_handler_failures_total", "consumer"), "{{consumer}}"), bars=True),
    _panel("Outcomes ignored per second", PER_SECOND, """
        Late, doubled, or for nobody. Normal after an early finish, a deadline or a cancel. Steady without
        those: work is delivered twice, look for dying workers or an ack_wait that is too short.""",
        (_rate("parley_agent_outcomes_ignored_total"), "ignored")),
    _panel("Handed out, not settled", "short", """
        `dispatch` follows the busy slots. Another that stays high: a handler hangs, or NATS is slow. At
        50,000 the server hands out nothing more.""",
        (f"max by (consumer) ({_series('parley_consumer_ack_pending')})", "{{consumer}}")),
    _panel("Clock, ahead of NATS", "s", """
        How far a process's machine is ahead of the NATS server. It is corrected for; seconds mean that
        the machine, or the server, has lost its time service.""",
        (_series("parley_clock_offset_seconds"), "{{instance}}")),
    _panel("NATS, connected", "short", """
        1 for each process that is connected to NATS. 0: its /readyz and its log say why.""",
        (_series("parley_nats_connected"), "{{instance}}")),
    _panel("NATS, connections lost", "short", """
        How often a process lost its connection to NATS. It reconnects by itself and nothing is lost; many in a
        short time mean that the network, or NATS, goes and comes. The log has a line for each way.""",
        (_increase("parley_nats_connection_losses_total", "instance"), "{{instance}}"), bars=True),
    _panel("Forged messages", "short", """
        What came under a name that is not its own, and was ignored: a reply subject that is no inbox, a
        delivery, an acknowledgement or an ending that NATS did not make. Look who may publish what
        (docs/security.md).""",
        (_increase("parley_forgeries_total", "kind"), "{{kind}}"), bars=True),
))
# fmt: on

ROWS = (PROMISE, AGENTS, CHOICES, SERVERS, POOL, TROUBLE)
