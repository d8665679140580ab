"""Which rights a connection's user lacks: asked of the server now and then, and noted when the server refuses one."""

import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace

import nats.errors
from pydantic_core import from_json

from parley.broker.core.errors import RIGHTS_ARE_IN
from parley.broker.jetstream import topology
from parley.broker.jetstream.nats_client import NatsClient
from parley.broker.jetstream.repeated_look import repeat_look
from parley.broker.jetstream.rights import USER_INFO, Permissions, Right, Verb, read_permissions

# Seconds between two looks; rights change when somebody changes the server's configuration. Where the user may not ask,
# each question is a line in the server's log.
LOOK_SECONDS, UNTOLD_LOOK_SECONDS = 5.0, 30.0
ANSWER_SECONDS = 2.0
# A refusal that does not come again is forgotten after this long, where the server does not tell the rights.
REFUSED_SECONDS = 60.0
# Tried where the server does not tell: only a stream hears these, and refuses what is meant for another stream.
_TRIED = frozenset({topology.AGENT_REQUESTED, topology.AGENT_COMPLETED, topology.AGENT_FAILED})
_TRY_HEADERS = {"Nats-Expected-Stream": "PARLEY_RIGHTS"}


class RightsWatch:
    """`needed`: the rights without which this process cannot do its work. `name`: of the role that needs them."""

    def __init__(self, nc: NatsClient, needed: Collection[Right], name: str = "service") -> None:
        self._nc = nc
        # With a domain JetStream's own subjects have other names.
        has_domain = nc.domain is not None or nc.jetstream_domain is not None
        self._needed = tuple(
            replace(right, subject=nc.in_domain(right.subject))
            for right in needed
            if not has_domain or not right.subject.startswith("$JS.")
        )
        self._name = name
        # Those that lack, as far as the server tells its user's rights; None: it does not.
        self._missing: tuple[Right, ...] | None = None

    @property
    def problem(self) -> str | None:
        """What lacks, or None."""
        missing = self._missing
        if missing is None:
            missing = tuple(right for right in self._needed if was_refused(self._nc.refusals, right))
        return missing_text(missing, self._name) if missing else None

    async def run(self) -> None:
        """Look now, after each reconnect and every few seconds, until the connection is closed for good."""
        await repeat_look(self._nc, self.look, self._seconds)

    def _seconds(self) -> float:
        return UNTOLD_LOOK_SECONDS if self._missing is None else LOOK_SECONDS

    async def look(self) -> str | None:
        """Ask once. Returns what lacks, or None."""
        permissions = await ask_permissions(self._nc)
        if permissions is None:
            self._missing = None
            await self._try()
        else:
            self._missing = tuple(right for right in self._needed if not permissions.permits(right))
        return self.problem

    async def _try(self) -> None:
        js = self._nc.jetstream(timeout=ANSWER_SECONDS)
        for right in self._needed:
            if right.verb is Verb.PUBLISH and right.subject in _TRIED:
                with suppress(
                    nats.errors.Error, TimeoutError
                ):  # of a missing right, the connection takes note
                    await js.publish(right.subject, b"", headers=_TRY_HEADERS)


async def ask_permissions(nc: NatsClient) -> Permissions | None:
    """The rights of the connection's user; None where it may not ask."""
    try:
        answer = await nc.request(USER_INFO, b"", timeout=ANSWER_SECONDS)
        return read_permissions(from_json(answer.data))
    except (nats.errors.Error, TimeoutError, ValueError):
        return None


def was_refused(refusals: Mapping[Right, float], right: Right) -> bool:
    """Whether `right` was refused lately. `refusals`: when each was refused last (monotonic)."""
    since = time.monotonic() - REFUSED_SECONDS
    return any(
        at >= since and refused.verb is right.verb and refused.matches(right.sample)
        for refused, at in refusals.items()
    )


def missing_text(missing: Collection[Right], name: str) -> str:
    """One line for `missing`. `name`: the role that needs them."""
    listed = ", ".join(map(str, missing))
    return f"the NATS user of the {name} has no right to {listed} ({RIGHTS_ARE_IN})"
