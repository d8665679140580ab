"""Pages of many deliberations: quick, and the same while things change."""

import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from parley.broker.core.states_and_moves import State
from parley.broker.core.tally import Decision, Tally
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.client import Client
from parley.gateway import listing
from parley.gateway.listing import Line, Lines, Listing, Sought
from parley.gateway.problems import Problem
from parley.gateway.tenants import ANYBODY
from tests.harness import ModelServer, Running, until
from tests.mirror.broker import small_server
from tests.mirror.parley.gateway import door
from tests.mirror.parley.test_display import tally


@pytest.fixture
async def wire(tmp_path: Any) -> AsyncIterator[JetStream]:
    """A server with an empty bucket."""
    async with small_server(tmp_path, max_payload=1 << 20) as nc:
        yield JetStream(nc)


def one(number: int, **fields: Any) -> Tally:
    return tally(task_id=f"t-{number}", accepted_at=1_000.0 + number, deadline=2_000.0 + number, **fields)


async def store(wire: JetStream, *tallies: Tally) -> None:
    for each in tallies:
        await wire.nc.publish(topology.tally_subject(each.task_id), each.model_dump_json().encode())
    await wire.nc.flush()
    await wire.publish(topology.tally_subject("flush"), b"x")


async def names(pages: Listing, **sought: Any) -> tuple[list[str], str | None]:
    page = await pages.page(Sought.of([(key, str(value)) for key, value in sought.items()], ANYBODY))
    return [line["task_id"] for line in page["deliberations"]], page["next"]


@pytest.fixture(autouse=True)
def _each_page_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "FRESH_SECONDS", 0.0)


async def test_pages_go_on_behind_each_other_while_more_is_asked(wire: JetStream) -> None:
    pages = Listing(Client(wire))
    await store(wire, *map(one, range(10)))
    first, following = await names(pages, limit=4)
    assert first == ["t-9", "t-8", "t-7", "t-6"]
    await store(wire, *map(one, range(10, 15)))
    second, following = await names(pages, limit=4, after=following)
    assert second == ["t-5", "t-4", "t-3", "t-2"]
    third, following = await names(pages, limit=4, after=following)
    assert (third, following) == (["t-1", "t-0"], None)
    assert (await names(pages, limit=1))[0] == ["t-14"]


async def test_what_is_forgotten_is_on_no_page(wire: JetStream) -> None:
    pages = Listing(Client(wire))
    await store(wire, *map(one, range(5)))
    assert len((await names(pages))[0]) == 5
    await wire.js.purge_stream(topology.TALLIES, subject=topology.tally_subject("t-3"))
    assert (await names(pages, limit=2))[0] == ["t-4", "t-2"]


async def test_what_has_changed_is_shown_as_it_is(wire: JetStream) -> None:
    pages = Listing(Client(wire))
    await store(wire, one(1), one(2, role="QA", metadata={"team": "red"}))
    assert (await names(pages, status="IN_PROGRESS"))[0] == ["t-2", "t-1"]
    decided = Decision(decided_at=1_500.0)
    await store(wire, one(1, state=State.COMPLETED, verdict=decided, ending_seq=3))
    assert (await names(pages, status="COMPLETED"))[0] == ["t-1"]
    assert (await names(pages, status="completed,in_progress"))[0] == ["t-2", "t-1"]
    assert (await names(pages, role="QA"))[0] == ["t-2"]
    assert (await names(pages, **{"metadata.team": "red"}))[0] == ["t-2"]
    assert (await names(pages, **{"metadata.team": "blue"}))[0] == []
    assert (await names(pages, since="1970-01-01T00:16:42Z"))[0] == ["t-2"]


async def test_a_bucket_that_was_made_anew_is_read_anew(wire: JetStream) -> None:
    pages = Listing(Client(wire))
    await store(wire, *map(one, range(5)))
    assert len((await names(pages))[0]) == 5
    config = (await wire.js.stream_info(topology.TALLIES)).config
    await wire.js.delete_stream(topology.TALLIES)
    await wire.js.add_stream(config)
    await store(wire, one(7))

    async def anew() -> bool:
        return (await names(pages))[0] == ["t-7"]

    await until(anew, "the new bucket is listed")


async def test_of_ten_thousand_a_page_takes_less_than_50_ms(wire: JetStream) -> None:
    pages = Listing(Client(wire))
    await store(wire, *map(one, range(10_000)))
    await names(pages)  # the first one reads them all
    times = []
    following = None
    for _ in range(20):
        began = time.process_time()
        _, following = await names(pages, limit=50, **({"after": following} if following else {}))
        times.append(time.process_time() - began)
    assert sorted(times)[10] < 0.05
    began = time.process_time()
    assert await names(pages, role="NOBODY") == ([], None)
    assert time.process_time() - began < 0.05


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "DONE"), ("limit", "0"), ("limit", "201"), ("limit", "x"), ("limit", "²"), ("limit", "000001999999"), ("after", "x"),
        ("after", "W10="), ("since", "yesterday"), ("colour", "red"),
    ],
)  # fmt: skip
def test_each_wrong_parameter_is_named(name: str, value: str) -> None:
    with pytest.raises(Problem) as told:
        Sought.of([(name, value)], ANYBODY)
    assert told.value.fields[0][0] == name


def test_lines_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_LINES", 3)
    lines = Lines()
    for number in range(5):
        lines.put(Line.of(one(number)))
    assert [line.task_id for line in lines.before(None, None)] == ["t-4", "t-3", "t-2"]


async def test_a_list_is_had_over_http(local_service: Running, model: ModelServer) -> None:
    async with door(local_service) as program:
        asked = await _asked(program)
        page = (await program.get("/v1/deliberations", params={"limit": 1, "metadata.n": "17"})).json()
        assert [line["task_id"] for line in page["deliberations"]] == [asked]
        assert page["deliberations"][0]["status"] == "COMPLETED"


async def _asked(program: httpx.AsyncClient) -> str:
    body = {"task_description": "x", "num_agents": 1, "metadata": {"n": "17"}}
    return str((await program.post("/v1/deliberations?wait=20", json=body)).json()["task_id"])
