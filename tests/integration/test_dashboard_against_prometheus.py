"""Dashboard, alert rules and metrics against a real Prometheus that scrapes a whole running service.

One scene is played once and has every kind of ending; the tests then query Prometheus about it. Without a Prometheus
only the tests that need none run.
"""

import json
import math
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from parley.broker.core.judging_orders import LABELS
from parley.broker.core.messages import AgentResult, CastBallot, DeliberationCompleted, Ending, ErrorType
from parley.broker.core.phase_plan import PhaseKind, Select
from parley.broker.core.states_and_moves import ENDINGS
from parley.broker.core.tally import ChoiceStatus, ClosedBy
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import connect
from parley.broker.jetstream.embedded import embedded_nats
from parley.broker.jetstream.forgery_counts import Forgery
from parley.monitoring import dashboards
from parley.monitoring.choice_metrics import RESULTS
from parley.monitoring.metrics import KNOWN_ROLES, OTHER, TIMEOUTS
from parley.workers.model.breaker import BreakerState
from tests.harness import Running, fresh, model_server, running, until
from tests.rig import prometheus
from tests.rig.debian import NotHere
from tests.rig.prometheus import Prometheus, Tools

ALERTS = Path(dashboards.__file__).parent / "alerts.yaml"
JOB = "parley"
# An unknown role. It must be counted and must not become a label.
INVENTED_ROLE = "BARD"
# Replaces Grafana's $__rate_interval. The whole scene fits into it.
WINDOW = "1m"


@dataclass(slots=True)
class Scene:
    """What the client saw, and the Prometheus to query."""

    server: Prometheus
    page: str = ""
    instance: str = ""
    endpoint: str = ""
    endings: list[Ending] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)

    @property
    def task_ids(self) -> list[str]:
        return [*(ending.task_id for ending in self.endings), *self.rejected]

    @property
    def statuses(self) -> Counter[str]:
        return Counter(ending.status for ending in self.endings) + Counter(rejected=len(self.rejected))

    @property
    def results(self) -> list[AgentResult]:
        return [result for ending in self.endings for result in ending.results]

    @property
    def ballots(self) -> list[CastBallot]:
        return [ballot for ending in self.endings for ballot in ballots_of(ending)]


@pytest.fixture(scope="module")
def tools() -> Tools:
    try:
        return prometheus.tools()
    except NotHere as reason:
        pytest.skip(f"no Prometheus: {reason}")


@pytest.fixture(scope="module")
async def scene(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """The scene, played once on its own NATS, model and service, so that its numbers are exact."""
    folder = tmp_path_factory.mktemp("scene")
    async with embedded_nats(folder / "nats") as nats_server, model_server() as model:
        nats = await connect(nats_server.url, "tests-metrics")
        try:
            async with running(nats_server.url, model, folder / "home", nats, pool="local") as on:
                instance = urlsplit(on.service.http_url).netloc
                async with prometheus.running(tools, folder, JOB, instance, ALERTS) as server:
                    played = Scene(server, instance=instance, endpoint=urlsplit(model.url).netloc)
                    await until(lambda: _scraped(server), "a first scrape, before anything has happened")
                    await play(on, played)
                    await until(lambda: _has_seen(played), "Prometheus has seen every ending")
                    played.page = await metrics_page(on)
                    yield played
        finally:
            await nats.close()


async def _scraped(server: Prometheus) -> bool:
    return await server.value("sum(up)") == 1


async def _has_seen(scene: Scene) -> bool:
    asked_of = sum(ending.total_agents + len(ballots_of(ending)) for ending in scene.endings)
    reported = await scene.server.value(
        "sum(parley_agent_outcomes_total) + sum(parley_agent_outcomes_ignored_total)"
    )
    settled = await scene.server.value("sum(parley_pool_busy) + sum(parley_consumer_ack_pending)")
    ended = await scene.server.value("sum(parley_deliberations_ended_total)")
    return (reported, settled, ended) == (asked_of, 0, len(scene.task_ids))


def ballots_of(ending: Ending) -> tuple[CastBallot, ...]:
    selection = ending.selection if isinstance(ending, DeliberationCompleted) else None
    return selection.ballots if selection is not None else ()


async def play(on: Running, scene: Scene) -> None:
    """A deliberation with every kind of ending; the comments say what each counts."""
    client, model = on.client, on.model

    async def deliberate(
        agents: int, role: str = "DEV", timeout_seconds: float = 30.0, select: str = "none"
    ) -> Ending:
        task_id = fresh("watched")
        asking = client.deliberate(
            "x", agents=agents, role=role, task_id=task_id, timeout_seconds=timeout_seconds, select=select
        )
        scene.endings.append(await asking)
        return scene.endings[-1]

    await deliberate(3)
    await deliberate(2, "QA")
    await deliberate(2, "QA", select="judge")  # three ballots
    await deliberate(1, INVENTED_ROLE)
    await model.behave(script=["503"])  # one retry
    await deliberate(1)
    await model.behave(script=["400"])  # one agent fails, the other answers: degraded
    await deliberate(2)
    await model.behave(script=["400"])  # the only agent fails: failed
    await deliberate(1)
    await model.behave(faults={"hang": 1.0})
    await deliberate(2, "DATA", timeout_seconds=0.5)  # timeout
    await cancelled(on, scene)
    await model.behave()
    await reject(on, scene, b"junk")


async def cancelled(on: Running, scene: Scene) -> None:
    submitted = await on.client.submit(
        "x", agents=2, role="ARCHITECT", task_id=fresh("watched"), timeout_seconds=30.0
    )
    await on.model.runs(2)
    await on.client.cancel(submitted.task_id)
    scene.endings.append(await on.client.ending(submitted))


async def reject(on: Running, scene: Scene, junk: bytes) -> None:
    task_id = f"d-{await on.publish(junk)}"
    ending = await on.ending_of(task_id)
    assert ending["status"] == "rejected"
    scene.rejected.append(task_id)


async def metrics_page(on: Running) -> str:
    async with aiohttp.ClientSession() as http, http.get(f"{on.service.http_url}/metrics") as response:
        assert response.status == 200
        return await response.text()


# ── the scene itself ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_every_ending_has_been_played(scene: Scene) -> None:
    assert set(scene.statuses) == set(ENDINGS)
    assert any(isinstance(ending, DeliberationCompleted) and ending.degraded for ending in scene.endings)


# ── the dashboard ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_committed_dashboard_is_up_to_date() -> None:
    assert dashboards.OUTPUT.read_text(encoding="utf-8") == dashboards.text(), (
        "run `python -m parley.monitoring.dashboards`"
    )


def test_every_panel_says_what_to_do_and_overlaps_no_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(dashboards.text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (place["x"] + right, place["y"] + down)
            for right in range(place["w"])
            for down in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < dashboards.GRID, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert len(panel["description"]) > 40, panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]


async def substituted(scene: Scene, promql: str) -> str:
    """The query with the dashboard's variables filled in from Prometheus, as Grafana does it."""
    values = {"$__rate_interval": WINDOW}
    for variable in json.loads(dashboards.OUTPUT.read_text())["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((.+), (\w+)\)", filled(variable["query"]["query"], values))
            assert asked is not None, variable
            values[f"${variable['name']}"] = "|".join(await scene.server.label_values(asked[2], asked[1]))
    return filled(promql, values)


def filled(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(name, value)
    return text


@pytest.mark.parametrize(
    ("title", "promql"), dashboards.queries(), ids=[title for title, _ in dashboards.queries()]
)
async def test_every_query_of_the_dashboard_returns_data(scene: Scene, title: str, promql: str) -> None:
    asked = await substituted(scene, promql)
    assert "$" not in asked
    assert f'instance=~"{scene.instance}"' in asked
    found = await scene.server.query(asked)
    assert any(math.isfinite(sample.value) for sample in found), f"{title}: {asked} gives {found}"


async def test_the_legends_name_labels_that_exist(scene: Scene) -> None:
    for panel in json.loads(dashboards.text())["panels"]:
        for target in panel.get("targets", ()):
            wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            found = await scene.server.query(await substituted(scene, target["expr"]))
            # No two lines of a graph have the same name.
            assert all(wanted <= set(sample.labels) for sample in found), panel["title"]
            names = [tuple(sample.labels[label] for label in sorted(wanted)) for sample in found]
            assert len(set(names)) == len(names), panel["title"]


def test_every_metric_has_a_panel(scene: Scene) -> None:
    shown = " ".join(promql for _, promql in dashboards.queries())
    names = {family.name for family in text_string_to_metric_families(scene.page)}
    assert {name for name in names if name not in shown} == set()


async def test_rates_count_a_first_event(scene: Scene) -> None:
    # One dead letter. If its series began with it, Prometheus would see no increase.
    rise = await scene.server.values(
        f"sum by (subject) (increase(parley_dead_letters_total[{WINDOW}]))", "subject"
    )
    assert rise[topology.REQUESTED] > 0
    assert {subject for subject, value in rise.items() if value} == {topology.REQUESTED}


# ── numbers ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_endings_are_counted_exactly(scene: Scene) -> None:
    counted = await scene.server.values("sum by (ending) (parley_deliberations_ended_total)", "ending")
    assert counted == dict(scene.statuses)
    degraded = sum(isinstance(ending, DeliberationCompleted) and ending.degraded for ending in scene.endings)
    assert await scene.server.value('sum(parley_deliberations_ended_total{degraded="true"})') == degraded == 1
    timed = await scene.server.values("parley_deliberation_duration_seconds_count", "ending")
    assert timed == counted


async def test_only_recorded_requests_count_as_accepted(scene: Scene) -> None:
    counted = await scene.server.values("parley_deliberations_accepted_total > 0", "role")
    assert counted == {"DEV": 4, "QA": 2, OTHER: 1, "DATA": 1, "ARCHITECT": 1}
    assert sum(counted.values()) == len(scene.endings)


async def test_durations_are_what_the_endings_say(scene: Scene) -> None:
    seconds = sum(ending.duration_ms for ending in scene.endings) / 1000
    counted = await scene.server.value('sum(parley_deliberation_duration_seconds_sum{ending!="rejected"})')
    assert counted == pytest.approx(seconds)


async def test_agents_are_counted_exactly(scene: Scene) -> None:
    outcomes = await scene.server.values("sum by (outcome) (parley_agent_outcomes_total) > 0", "outcome")
    answered = len(scene.results) + len(scene.ballots)
    assert outcomes == {"completed": answered, "bad_request": 2}
    assert await scene.server.value("sum(parley_agent_duration_seconds_count)") == answered
    assert await scene.server.value("parley_agent_queue_seconds_count") == sum(outcomes.values())
    assert await scene.server.values("parley_agent_retries_total > 0", "role") == {"DEV": 1}
    # Two timed out and two were cancelled: their deliberation had ended, or their outcome changed nothing.
    assert await scene.server.value("parley_agent_outcomes_ignored_total") == 4


async def test_tokens_are_counted_exactly(scene: Scene) -> None:
    tokens = await scene.server.values("parley_agent_tokens_total", "kind")
    assert tokens["completion"] == sum(
        [*(result.proposal.tokens for result in scene.results), *(ballot.tokens for ballot in scene.ballots)]
    )
    assert tokens["prompt"] > 0


async def test_no_work_is_left(scene: Scene) -> None:
    consumers = {durable.name: 0.0 for durable in topology.DURABLES}
    assert await scene.server.values("parley_consumer_pending", "consumer") == consumers
    assert await scene.server.values("parley_consumer_ack_pending", "consumer") == consumers
    assert await scene.server.value("parley_pool_busy") == 0
    assert await scene.server.value("parley_pool_slots") == 256
    assert await scene.server.values("parley_endpoint_breakers", "state") == {
        "closed": 1,
        "half_open": 0,
        "open": 0,
    }
    assert await scene.server.values("parley_endpoint_breaker_openings_total", "endpoint") == {
        scene.endpoint: 0
    }
    assert await scene.server.value("sum(parley_handler_failures_total)") == 0


# ── series ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_label_value_is_chosen_by_a_caller(scene: Scene) -> None:
    endings = {str(ending) for ending in ENDINGS}
    allowed = {
        "role": KNOWN_ROLES | {OTHER},
        "outcome": {"completed", *map(str, ErrorType)},
        "ending": endings,
        "degraded": {"true", "false"},
        "model": {"simulated-model", OTHER},
        "kind": {"prompt", "completion", *map(str, TIMEOUTS), *map(str, Forgery)},
        "subject": {durable.filter for durable in topology.DURABLES},
        "consumer": {durable.name for durable in topology.DURABLES},
        "endpoint": {scene.endpoint},
        "state": set(map(str, BreakerState)),
        "method": set(Select),
        "status": set(ChoiceStatus),
        "result": set(RESULTS),
        "place": set(LABELS),
        "longest": {"true", "false"},
        "phase": set(PhaseKind),
        "closed_by": set(ClosedBy),
    }
    for family in text_string_to_metric_families(scene.page):
        for sample in family.samples:
            for label, value in sample.labels.items():
                assert label == "le" or value in allowed[label], sample
    assert INVENTED_ROLE not in scene.page
    for task_id in scene.task_ids:
        assert f'"{task_id}"' not in scene.page
    assert "watched-" not in scene.page


def test_promtool_accepts_the_metrics(scene: Scene, tools: Tools) -> None:
    assert tools.complaints("check", "metrics", text=scene.page) == ""


# ── alerts ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_promtool_accepts_the_rules(tools: Tools) -> None:
    assert tools.complaints("check", "rules", ALERTS) == ""


async def test_the_rules_load_and_only_the_rejected_request_fires_an_alert(scene: Scene) -> None:
    async def dead_letters_fire() -> bool:
        return (await scene.server.rules())["ParleyDeadLetters"]["state"] == "firing"

    await until(dead_letters_fire, "the alert about dead letters fires")
    rules = await scene.server.rules()
    assert {name for name, rule in rules.items() if rule["health"] != "ok"} == set()
    assert {name for name, rule in rules.items() if rule["state"] == "firing"} == {"ParleyDeadLetters"}


def test_the_rules_use_only_metrics_that_exist(scene: Scene) -> None:
    asked = set(re.findall(r"\bparley_\w+", ALERTS.read_text()))
    existing = {
        sample.name for family in text_string_to_metric_families(scene.page) for sample in family.samples
    }
    assert asked
    assert asked <= existing


def ended(ending: str) -> str:
    return f'parley_deliberations_ended_total{{ending="{ending}",degraded="false"}}'


def pending(consumer: str) -> str:
    return f'parley_consumer_pending{{consumer="{consumer}"}}'


def breakers(endpoint: str, state: BreakerState) -> str:
    return f'parley_endpoint_breakers{{endpoint="{endpoint}",state="{state}"}}'


DEAD = 'parley_dead_letters_total{subject="deliberation.requested"}'
RAISED = 'parley_handler_failures_total{consumer="intake"}'
BUSY, SLOTS = "parley_pool_busy", "parley_pool_slots"
REPORTED = 'parley_agent_outcomes_total{role="DEV",outcome="completed"}'
VALID, INVALID = (f'parley_ballots_total{{result="{result}"}}' for result in ("valid", "invalid"))
PLACES = {place: f'parley_first_place_total{{place="{place}"}}' for place in "ABC"}
# One of two model servers, as four workers see it.
CALLED, PROBED, LEFT = (breakers("gpu-1:8000", state) for state in BreakerState)

# The series of a healthy service, one step a minute, in promtool's notation: start, change, times. Each trouble
# changes some of them; None removes the series.
HEALTHY = {
    ended("completed"): "0+60x90",
    **{ended(ending): "0x90" for ending in ("failed", "timeout", "rejected")},
    **{pending(durable.name): "0x90" for durable in topology.DURABLES},
    DEAD: "0x90",
    RAISED: "0x90",
    BUSY: "100x90",
    SLOTS: "256x90",
    REPORTED: "0+180x90",
    **{
        breakers("gpu-2:8000", state): "4x90" if state is BreakerState.CLOSED else "0x90"
        for state in BreakerState
    },
    CALLED: "4x90",
    PROBED: "0x90",
    LEFT: "0x90",
    VALID: "0+30x90",
    INVALID: "0x90",
    **dict.fromkeys(PLACES.values(), "0+10x90"),
}
# The alert that must fire after an hour, or None, and the series that differ.
TROUBLES: Mapping[str, tuple[str | None, Mapping[str, str | None]]] = {
    "the service is healthy": (None, {}),
    "one request in ten is rejected": (None, {ended("rejected"): "0+6x90"}),
    "one in a hundred times out": (None, {ended("timeout"): "0+0.6x90"}),
    "the only one of a quiet night times out": (
        None,
        {ended("completed"): "0x90", ended("timeout"): "0x50 1x40"},
    ),
    "the only one of a quiet night fails": (None, {ended("completed"): "0x90", ended("failed"): "0x50 1x40"}),
    "a burst waits for a full pool": (None, {pending("dispatch"): "0x57 500x1 0x32", BUSY: "256x90"}),
    "the pool is full and nothing waits": (None, {BUSY: "256x90"}),
    "a backlog is worked off": (None, {pending("dispatch"): "9000-100x90", pending("intake"): "9000-100x90"}),
    "one in ten times out": ("ParleyDeliberationsTimingOut", {ended("timeout"): "0+6x90"}),
    "one in ten fails": ("ParleyDeliberationsFailing", {ended("failed"): "0+6x90"}),
    "one dead letter": ("ParleyDeadLetters", {DEAD: "0x40 1x50"}),
    "a handler raises once": ("ParleyHandlerFailures", {RAISED: "0x50 1x40"}),
    "work waits, a quarter is busy": (
        "ParleyBacklogWhilePoolIdle",
        {pending("dispatch"): "0+10x90", BUSY: "64x90"},
    ),
    "work waits, no process has a pool": (
        "ParleyBacklogWhilePoolIdle",
        {pending("dispatch"): "7x90", BUSY: None, SLOTS: None},
    ),
    "the pool is full for long": ("ParleyPoolFull", {pending("dispatch"): "500x90", BUSY: "250x90"}),
    "a server restarts": (None, {CALLED: "4x59 0 4x30", LEFT: "0x59 4 0x30"}),
    "one worker of four cannot reach a server": (None, {CALLED: "3x90", LEFT: "1x90"}),
    "a server is down and no agent runs": (None, {CALLED: "0x90", LEFT: "4x90", REPORTED: "0x90"}),
    "no worker is up": (None, {CALLED: "0x90", breakers("gpu-2:8000", BreakerState.CLOSED): "0x90"}),
    "a server is down": ("ParleyModelServerDown", {CALLED: "0x90", LEFT: "4x90"}),
    "a server is down and being probed": (
        "ParleyModelServerDown",
        {CALLED: "0x90", PROBED: "1x90", LEFT: "3x90"},
    ),
    "every actor has died": ("ParleyPoolFull", {pending("dispatch"): "500x90", BUSY: "0x90", SLOTS: "0x90"}),
    "one ballot in a hundred is lost": (None, {INVALID: "0+0.3x90"}),
    "one ballot in four is lost": ("ParleyBallotsInvalid", {INVALID: "0+10x90"}),
    "judges favour the first place a little": (None, {PLACES["A"]: "0+15x90"}),
    "judges look at places": ("ParleyJudgesFavourAPlace", {PLACES["A"]: "0+28x90", PLACES["B"]: "0+1x90"}),
    "intake is down": ("ParleyConsumerStuck", {pending("intake"): "0+5x90"}),
    "no process is scraped": ("ParleyNotScraped", dict.fromkeys(HEALTHY)),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_each_alert_fires_for_its_trouble_and_no_other(trouble: str, tools: Tools, tmp_path: Path) -> None:
    alert, changed = TROUBLES[trouble]
    series = [
        {"series": name, "values": values}
        for name, values in {**HEALTHY, **changed}.items()
        if values is not None
    ]
    hour_later = {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": "60m",
        "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1}] if alert else [],
    }
    case = {"interval": "1m", "input_series": series, "promql_expr_test": [hour_later]}
    path = tmp_path / "alerts-test.yaml"
    path.write_text(json.dumps({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": [case]}))
    assert tools.complaints("test", "rules", path) == ""


def test_every_alert_has_a_trouble() -> None:
    assert set(re.findall(r"- alert: (\w+)", ALERTS.read_text())) == {
        alert for alert, _ in TROUBLES.values() if alert
    }
