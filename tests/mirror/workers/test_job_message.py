"""A job as one message: it arrives as it was sent, and only with a key that settles a delivery of the work queue."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.broker.core.errors import InvalidMessage
from parley.workers.job_message import MAX_JOB_BYTES, AgentJob, pack, unpack
from tests import present

KEY = "$JS.ACK.AGENT_REQUESTS.dispatch.1.2.3.1764144000000000000.0"


@given(
    body=st.binary(max_size=200),
    traceparent=st.none() | st.just("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
)
def test_a_job_arrives_as_it_was_sent(body: bytes, traceparent: str | None) -> None:
    job = AgentJob(KEY, body, traceparent)
    assert unpack(present(pack(job))) == job


@pytest.mark.parametrize(
    "key",
    [KEY, KEY.replace("AGENT", "hub.Xy12abCD.AGENT"), KEY.replace("AGENT", "_.Xy12abCD.AGENT") + ".t0ken"],
)
def test_a_delivery_is_known_in_each_form_that_servers_give_it(key: str) -> None:
    assert unpack(pack(AgentJob(key, b"{}")) or b"").key == key


def test_an_invalid_trace_context_is_dropped() -> None:
    assert unpack(f"{KEY}\nx: y\n{{}}".encode()).traceparent is None


def test_a_job_with_line_breaks_in_its_body_is_cut_nowhere() -> None:
    job = AgentJob(KEY, b'{"a": 1}\n\n{"b": 2}\n')
    assert unpack(pack(job) or b"") == job


def test_a_job_that_is_too_large_is_not_packed() -> None:
    room = MAX_JOB_BYTES - len(KEY) - 2
    assert pack(AgentJob(KEY, b"x" * room)) is not None
    assert pack(AgentJob(KEY, b"x" * (room + 1))) is None


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"one line",
        f"{KEY}\n".encode(),
        b"deliberation.requested\n\n{}",
        b"$JS.API.STREAM.DELETE.DELIBERATIONS\n\n{}",
        b"$JS.ACK.\n\n{}",
        b"$JS.ACK.OTHER.dispatch.1.2.3.4.0\n\n{}",
        b"$JS.ACK.AGENT_REQUESTS.other.1.2.3.4.0\n\n{}",
        b"$JS.ACK.AGENT_REQUESTS.dispatch.1.2.3.4\n\n{}",
        b"$JS.ACK.AGENT_REQUESTS.dispatch.1.2.3.4.0.a.b\n\n{}",
        b"$JS.ACK." + b"x" * 5_000 + b".y.AGENT_REQUESTS.dispatch.1.2.3.4.0\n\n{}",
        b"$JS.ACK.a b\n\n{}",
        b"$JS.ACK.a\rPUB x 1\n\n{}",
        b"$JS.ACK.>\n\n{}",
        b"\xff\xfe\n\n{}",
        f"{KEY}\n\xff\n".encode("latin-1"),
        f"{KEY}\n\n".encode() + b"x" * MAX_JOB_BYTES,
    ],
)
def test_a_message_that_is_no_job_or_would_publish_elsewhere_is_refused(message: bytes) -> None:
    with pytest.raises(InvalidMessage):
        unpack(message)
