"""Pages of what is remembered, the newest first. A page's place is the last deliberation on the page before: what is
asked meanwhile moves nothing from one page to another.

A gateway keeps a line of each deliberation in memory, and reads at each page what has changed since the page before.
What is on the page is read once more: what is forgotten is not on it.
"""

import asyncio
import base64
import binascii
import json
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from parley.broker.core.states_and_moves import STATUS_WORDS
from parley.broker.core.tally import Tally
from parley.broker.core.timestamps import format_timestamp, parse_timestamp
from parley.client import Client
from parley.gateway.problems import invalid
from parley.gateway.tenants import ANYBODY, Tenant
from parley.statuses import status_of

MAX_PAGE, PAGE = 200, 50
# Lines kept; of more the oldest are not listed.
MAX_LINES = 200_000
# A page that is asked for so soon after another shows what that one read.
FRESH_SECONDS = 0.2
_STATUSES = tuple(dict.fromkeys(STATUS_WORDS.values()))
# Oldest first: when it was asked for, and its name.
Key = tuple[float, str]


@dataclass(frozen=True, slots=True)
class Sought:
    """What a page is to show. `before`: the last one on the page before."""

    tenant: Tenant = ANYBODY
    statuses: frozenset[str] = frozenset()
    role: str | None = None
    since: float | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    limit: int = PAGE
    before: Key | None = None

    @classmethod
    def of(cls, query: Sequence[tuple[str, str]], tenant: Tenant) -> "Sought":
        """From a query: status, role, since, metadata.KEY, limit, after. Raises Problem that names what is wrong."""
        given: dict[str, Any] = {"tenant": tenant}
        statuses: list[str] = []
        metadata: list[tuple[str, str]] = []
        problems = []
        for name, value in query:
            try:
                if name == "status":
                    statuses += _statuses(value)
                elif name.startswith("metadata."):
                    metadata.append((name.removeprefix("metadata."), value))
                else:
                    given |= _field(name, value)
            except ValueError as error:
                problems.append(f"{name[:64]}: {error}")
        if problems:
            raise invalid(problems)
        return cls(**given, statuses=frozenset(statuses), metadata=tuple(metadata))

    def shows(self, line: "Line") -> bool:
        return (
            self.tenant.owns(line.task_id)
            and (not self.statuses or line.status in self.statuses)
            and (self.role is None or line.role == self.role)
            and all(line.metadata.get(key) == value for key, value in self.metadata)
        )


def _statuses(value: str) -> list[str]:
    found = [word.strip().upper() for word in value.split(",")]
    if any(word not in _STATUSES for word in found):
        raise ValueError(f"of {', '.join(_STATUSES)}")
    return found


def _field(name: str, value: str) -> dict[str, Any]:
    match name:
        case "role":
            return {"role": value}
        case "since":
            return {"since": _instant(value)}
        case "limit":
            if (
                not value.isascii()
                or not value.isdigit()
                or len(value) > 6
                or not 1 <= int(value) <= MAX_PAGE
            ):
                raise ValueError(f"1 to {MAX_PAGE}")
            return {"limit": int(value)}
        case "after":
            return {"before": _read_key(value)}
    raise ValueError("no such parameter")


def _instant(value: str) -> float:
    try:
        return parse_timestamp(value)
    except ValueError:
        raise ValueError("RFC 3339, as 2026-11-28T08:00:00Z") from None


def _read_key(text: str) -> Key:
    try:
        at, name = json.loads(base64.urlsafe_b64decode(text[:256]))
        return float(at), str(name)
    except (ValueError, TypeError, binascii.Error):
        raise ValueError("not the `next` of a page") from None


def _told_key(key: Key) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()


@dataclass(frozen=True, slots=True)
class Line:
    task_id: str
    at: float
    status: str
    role: str
    metadata: dict[str, str]
    agents: int
    answered: int
    select: str

    @classmethod
    def of(cls, tally: Tally) -> "Line":
        phase = tally.answers
        return cls(
            tally.task_id, tally.accepted_at, status_of(tally), tally.role, dict(tally.metadata), len(phase.agents), phase.successes,
            tally.select.value,
        )  # fmt: skip

    @property
    def key(self) -> Key:
        return self.at, self.task_id

    def told(self) -> dict[str, Any]:
        return {
            "task_id": self.task_id, "status": self.status, "role": self.role, "select": self.select,
            "accepted_at": format_timestamp(self.at), "total_agents": self.agents, "received_count": self.answered,
            "metadata": self.metadata,
        }  # fmt: skip


@dataclass(slots=True)
class Lines:
    """Every deliberation by its name, and their keys in order. Pure."""

    by_name: dict[str, Line] = field(default_factory=dict)
    keys: list[Key] = field(default_factory=list)

    def put(self, line: Line) -> None:
        before = self.by_name.get(line.task_id)
        if before is None or before.key != line.key:
            self.remove(line.task_id)
            insort(self.keys, line.key)
        self.by_name[line.task_id] = line
        while len(self.keys) > MAX_LINES:
            self.remove(self.keys[0][1])

    def remove(self, name: str) -> None:
        line = self.by_name.pop(name, None)
        if line is not None:
            del self.keys[bisect_left(self.keys, line.key)]

    def before(self, key: Key | None, since: float | None) -> Iterator[Line]:
        """From the newest on, or behind this one."""
        place = len(self.keys) if key is None else bisect_left(self.keys, key)
        # A copy: what is forgotten is removed while one reads.
        for at, name in reversed(self.keys[:place]):
            if since is not None and at < since:
                return
            if (line := self.by_name.get(name)) is not None:
                yield line


class Listing:
    def __init__(self, client: Client) -> None:
        self._client = client
        self._lines = Lines()
        # Up to which place in the bucket it was read, and when (the event loop's time).
        self._seen = 0
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def page(self, sought: Sought) -> dict[str, Any]:
        """A page, with `next` for the one behind it; None on the last. Raises Unavailable."""
        await self._read()
        shown: list[Line] = []
        lines = self._lines.before(sought.before, sought.since)
        more = True
        while len(shown) < sought.limit and more:
            found = _take(lines, sought, sought.limit - len(shown))
            more = bool(found)
            shown += [line for line in await self._as_now(found) if sought.shows(line)]
        following = next((line for line in lines if sought.shows(line)), None)
        last = shown[-1].key if shown and following is not None else None
        return {
            "deliberations": [line.told() for line in shown],
            "next": None if last is None else _told_key(last),
        }

    async def _as_now(self, lines: Sequence[Line]) -> list[Line]:
        """These, as they are now, without those that are forgotten."""
        if not lines:
            return []
        tallies, place = await self._client.tallies_named([line.task_id for line in lines])
        if place < self._seen:  # the bucket was made anew
            self._lines, self._seen = Lines(), 0
        found = []
        for line in lines:
            tally = tallies.get(line.task_id)
            if tally is None:
                self._lines.remove(line.task_id)
            else:
                now = Line.of(tally)
                self._lines.put(now)
                found.append(now)
        return found

    async def _read(self) -> None:
        async with self._reading:
            now = asyncio.get_running_loop().time
            if now() - self._read_at < FRESH_SECONDS:
                return
            async with aclosing(self._client.changes(self._seen + 1)) as changes:
                async for place, name, tally in changes:
                    self._seen = place
                    if tally is None:
                        self._lines.remove(name)
                    else:
                        self._lines.put(Line.of(tally))
            self._read_at = now()


def _take(lines: Iterator[Line], sought: Sought, most: int) -> list[Line]:
    found: list[Line] = []
    for line in lines:
        if sought.shows(line):
            found.append(line)
            if len(found) == most:
                break
    return found
