"""How much of a server's limit each worker has: what is stored for all of them, and one worker's turn at it. Pure.

Each worker holds a share of the calls at once, for some seconds, and renews it. The shares together are never more than
the limit. A worker that others need room beside lets go as its calls end. Tokens are taken before a call, as many as it
may use, and put right after it, within a window of 60 seconds.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pydantic import TypeAdapter

WINDOW_SECONDS = 60
# A worker that has not renewed its share within this is dead. Its connections are closed by then.
LEASE_SECONDS = 15.0
# If there are more workers than calls at once, those that have none change places so often.
TURN_SECONDS = 5.0


class Claim(NamedTuple):
    """A call that found too few tokens. `tokens`: how many it needs. `since`: from when on; later callers leave room for
    it. `until`: when the claim ends, if its worker does not renew it."""

    tokens: int
    since: float
    until: float


class Share(NamedTuple):
    """`calls`: how many at once it may have. `wants`: how many it would have. `until`: since the epoch."""

    calls: int
    wants: int
    until: float


@dataclass(frozen=True, slots=True)
class Taken:
    """What is stored. `shares`, `claims`: by worker. `tokens`: by the second, since the epoch, in which they were taken."""

    shares: Mapping[str, Share] = field(default_factory=dict)
    tokens: Mapping[int, int] = field(default_factory=dict)
    claims: Mapping[str, Claim] = field(default_factory=dict)


class PutRight(NamedTuple):
    """A call used so many tokens more than were taken for it at this second; less than 0: fewer."""

    second: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Turn:
    """What a worker found. `share`: how many calls it may have at once; None: no limit. `begin`: how many of those that
    wait may begin. `wait_seconds`: until there may be tokens for the next one; None if not tokens are what it waits for.
    `room`: how many calls at once the others leave it, where there is such a limit.
    """

    taken: Taken
    share: int | None
    begin: int
    wait_seconds: float | None
    room: int


_STORED = TypeAdapter(Taken)


def decoded(body: bytes | None) -> Taken:
    """Raises ValueError."""
    return Taken() if body is None else _STORED.validate_json(body)


def encoded(taken: Taken) -> bytes:
    return _STORED.dump_json(taken)


def take_turn(
    taken: Taken,
    worker: str,
    *,
    running: int,
    waiting: Sequence[int],
    put_right: Sequence[PutRight],
    concurrency: int | None,
    tokens_per_minute: int | None,
    now: float,
) -> Turn:
    """The worker renews its share, begins what it may of the calls that wait, and puts right what has ended.

    `waiting`: the tokens that each of them may use, in their order.
    """
    others = {name: share for name, share in taken.shares.items() if share.until > now and name != worker}
    claims = {name: claim for name, claim in taken.claims.items() if claim.until > now and name != worker}
    wants = running + len(waiting)
    share = None if concurrency is None else _share(others, worker, wants, concurrency, now)
    room = len(waiting) if share is None else max(0, share - running)
    window = _right(taken.tokens, put_right, now)
    since = taken.claims[worker].since if worker in taken.claims else now
    # Whoever has waited longer comes first: a large call would never find room among small ones.
    kept_free = sum(claim.tokens for claim in claims.values() if claim.since < since)
    tokens, begin, wait_seconds = _take_tokens(window, waiting[:room], tokens_per_minute, kept_free, now)
    shares = dict(others)
    if wants and share is not None:
        shares[worker] = Share(max(share, running), wants, now + LEASE_SECONDS)
    if wait_seconds is not None and tokens_per_minute is not None:
        began = now if begin else since
        claims[worker] = Claim(min(waiting[begin], tokens_per_minute), began, now + LEASE_SECONDS)
    left = concurrency - sum(other.calls for other in others.values()) if concurrency is not None else 0
    return Turn(Taken(shares, tokens, claims), share, begin, wait_seconds, left)


def _share(others: Mapping[str, Share], worker: str, wants: int, concurrency: int, now: float) -> int:
    """What this worker may have: its fair part, as far as the others have let go of theirs."""
    free = concurrency - sum(share.calls for share in others.values())
    fair = _fair_parts(
        {**{name: share.wants for name, share in others.items()}, worker: wants}, concurrency, now
    )
    return max(0, min(fair[worker], free))


def _fair_parts(wants: Mapping[str, int], concurrency: int, now: float) -> dict[str, int]:
    """Everybody gets what it wants, or as much as all others that want more than they get."""
    left, least = concurrency, 0
    names = sorted(wants, key=lambda name: wants[name])
    for number, name in enumerate(names):
        others = len(names) - number
        least = left // others
        if wants[name] > least:
            left -= least * others
            break
        left -= wants[name]
    parts = {name: min(wants[name], least) for name in names}
    # What cannot be divided goes to some of them, and to others a little later.
    turn = int(now / TURN_SECONDS)
    unserved = (name for name in wants if parts[name] < wants[name])
    for name in sorted(unserved, key=lambda name: hashlib.blake2b(f"{name} {turn}".encode()).digest())[:left]:
        parts[name] += 1
    return parts


def _right(tokens: Mapping[int, int], put_right: Sequence[PutRight], now: float) -> dict[int, int]:
    """What was taken within the window, with what was put right."""
    since = int(now) - WINDOW_SECONDS - 1  # the first of these seconds may have been taken from at its end
    window = {second: number for second, number in tokens.items() if second > since}
    for second, number in put_right:
        if second in window:
            window[second] = max(0, window[second] + number)
    return window


def _take_tokens(
    window: dict[int, int], waiting: Sequence[int], tokens_per_minute: int | None, kept_free: int, now: float
) -> tuple[dict[int, int], int, float | None]:
    """The window, how many of these calls may begin, and the seconds until the next one may. `kept_free`: for others."""
    if tokens_per_minute is None:
        return window, len(waiting), None  # another process may count them
    used, second = sum(window.values()) + kept_free, int(now)
    for number, tokens in enumerate(waiting):
        # A call that may use more than a whole minute's has the minute to itself.
        wanted = min(tokens, tokens_per_minute)
        if used + wanted > tokens_per_minute:
            return window, number, _wait(window, used + wanted - tokens_per_minute, now)
        window[second] = window.get(second, 0) + wanted
        used += wanted
    return window, len(waiting), None


def _wait(window: Mapping[int, int], too_many: int, now: float) -> float:
    """Seconds until so many of the tokens have left the window."""
    for second in sorted(window):
        too_many -= window[second]
        if too_many <= 0:
            return max(0.0, second + WINDOW_SECONDS + 1 - now)
    return float(WINDOW_SECONDS)
