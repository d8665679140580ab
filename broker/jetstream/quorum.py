"""Whether a cluster of NATS servers can decide anything: what its answers say of that, in words."""

import time
from collections.abc import Mapping
from typing import Any

import nats.errors
from nats.js.errors import APIError
from pydantic_core import from_json

from parley.broker.core.timestamps import parse_timestamp
from parley.broker.jetstream.nats_client import NatsClient

# JetStream's refusals without a leader: 10008 "JetStream system temporarily unavailable", 10009 "not the leader".
# 10118: "stream is offline".
_NO_LEADER = {
    10008: "its JetStream has no leader",
    10009: "its JetStream has no leader",
    10118: "the servers that hold a stream are down",
}
# For the servers to say whether they have a leader. Without one they may say nothing.
ANSWER_SECONDS = 1.0
# An answer counts for this long: while a stream has no leader, every publish asks.
KEPT_SECONDS = 1.0


def told_no_quorum(error: BaseException) -> str | None:
    """What lacks, if this refusal is for want of a quorum; else None."""
    return _NO_LEADER.get(error.err_code or 0) if isinstance(error, APIError) else None


def leaderless(stream: str, cluster: Mapping[str, Any] | None) -> str | None:
    """What lacks, if a stream's own servers have no majority. `cluster`: as `STREAM.INFO` has it; None on one server.

    A leader that has lost the others calls itself leader for some seconds more.
    """
    if not cluster:
        return None
    replicas = cluster.get("replicas") or []
    if not cluster.get("leader"):
        return f"stream {stream} has no leader"
    away = sum(1 for replica in replicas if replica.get("offline"))
    if 2 * away > len(replicas):
        return f"{away} of the {len(replicas) + 1} servers of stream {stream} are away"
    return None


def could_store(info: Mapping[str, Any], seconds: float) -> bool:
    """Whether all that a write needs was there for the last `seconds`, as the leader of this `STREAM.INFO` tells: itself,
    and most of its servers. A leader that is cut off calls itself leader for some seconds more."""
    cluster = info.get("cluster") or {}
    replicas = cluster.get("replicas") or []
    if not is_replicated(info):
        return True  # one server
    try:
        led = parse_timestamp(info["ts"]) - parse_timestamp(cluster["leader_since"])
        silences = [float(replica["active"]) / 1e9 for replica in replicas]
    except (LookupError, TypeError, ValueError):
        return False
    silent = sum(1 for silence in silences if silence >= seconds)
    return led >= seconds and 2 * silent <= len(silences)


def is_replicated(info: Mapping[str, Any]) -> bool:
    """Whether several servers hold the stream of this `STREAM.INFO`."""
    return bool((info.get("cluster") or {}).get("replicas"))


class Quorum:
    """Asks the servers behind a connection."""

    def __init__(self, nc: NatsClient) -> None:
        self._nc = nc
        # By stream: when it was asked (monotonic), and the answer.
        self._kept: dict[str, tuple[float, str | None]] = {}

    async def problem(self, stream: str) -> str | None:
        """What lacks for a write to `stream`; None if nothing is known to lack: this user may have no right to ask."""
        at, answer = self._kept.get(stream, (0.0, None))
        if time.monotonic() - at > KEPT_SECONDS:
            answer = await self._ask(stream)
            self._kept[stream] = time.monotonic(), answer
        return answer

    async def _ask(self, stream: str) -> str | None:
        if self._nc.cluster is None:
            return None
        found = await self._answer(f"$JS.API.STREAM.INFO.{stream}")
        what = _refusal(found) or leaderless(stream, found.get("cluster"))
        return what or _refusal(await self._answer("$JS.API.INFO"))

    async def stream_info(self, stream: str) -> Mapping[str, Any]:
        """What the stream's leader says of it. Empty if it does not answer, another says that there is none, or this user
        may not ask."""
        found = await self._answer(f"$JS.API.STREAM.INFO.{stream}")
        return {} if "error" in found else found

    async def _answer(self, subject: str) -> Mapping[str, Any]:
        try:
            read = from_json((await self._nc.request(subject, b"", timeout=ANSWER_SECONDS)).data)
        except (nats.errors.Error, TimeoutError, ValueError):
            return {}
        return read if isinstance(read, dict) else {}


def _refusal(answer: Mapping[str, Any]) -> str | None:
    error = answer.get("error")
    return _NO_LEADER.get(int(error.get("err_code") or 0)) if isinstance(error, dict) else None
