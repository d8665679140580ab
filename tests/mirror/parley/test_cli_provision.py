"""`parley provision` says what differs, and with --apply makes it so."""

import nats.js.errors
import pytest

from parley.broker.core.errors import SettingsError, TopologyMismatch
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.embedded import EmbeddedNats
from parley.cli_common import FAILED, OK
from parley.cli_provision import run
from parley.settings import load


async def test_it_shows_and_then_changes_what_differs_and_says_what_it_cannot(
    empty_nats: EmbeddedNats, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load(nats_url=empty_nats.url)
    assert await run(settings, apply=False) == FAILED
    shown = capsys.readouterr().out.splitlines()
    assert "stream REQUESTS: missing; made at the next start of a service" in shown
    nc = await connect(empty_nats.url, "test")
    with pytest.raises(nats.js.errors.NotFoundError):
        await nc.jetstream().stream_info("REQUESTS")
    assert await run(settings, apply=True) == OK
    assert "stream REQUESTS" in capsys.readouterr().out.splitlines()
    assert await run(settings, apply=False) == OK
    assert capsys.readouterr().out == "all streams and consumers are as they are needed\n"
    live = (await nc.jetstream().stream_info("DELIBERATIONS")).config
    await nc.jetstream().update_stream(live, max_msgs=40)
    live = (await nc.jetstream().stream_info("AGENT_REQUESTS")).config
    await nc.jetstream().delete_stream("AGENT_REQUESTS")
    await nc.jetstream().add_stream(live, storage="memory")
    assert await run(settings, apply=False) == FAILED
    _, timers, work, *_ = capsys.readouterr().out.splitlines()
    assert timers == (
        "stream DELIBERATIONS: max_msgs is 40, declared -1; changed by `parley provision --apply`"
    )
    assert work.startswith("stream AGENT_REQUESTS: storage is memory, declared file (stop the service, ")
    with pytest.raises(
        TopologyMismatch, match="stream AGENT_REQUESTS: storage is memory, declared file"
    ) as caught:
        await run(settings, apply=True)
    assert len(caught.value.differences) == 1  # the other one is changed
    assert (await nc.jetstream().stream_info("DELIBERATIONS")).config.max_msgs == -1
    await close(nc)


async def test_without_a_nats_it_says_so() -> None:
    with pytest.raises(SettingsError, match="NATS_URL"):
        await run(load(), apply=False)
