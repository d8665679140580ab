"""The faults, one case each. Those marked `short` run with every test run."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.faults.fleet import Fleet
from tests.faults.load import TIMEOUT_SECONDS
from tests.faults.processes import Process

FREEZE_SECONDS = 5.0
# "NATS away for a minute, then back".
AWAY_SECONDS = 60.0
# Some calls never end; the deadline ends their deliberations.
SHORT_DEADLINE_SECONDS = 10.0
HANGING_DEADLINE_SECONDS = 1.5

Strike = Callable[[Fleet], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Case:
    """`timeout`: of the deliberations, in seconds. `lasting`: the model server misbehaves from start to end.

    `all_complete`: only time is lost, so every deliberation completes. `heard_once`: the fault cannot hit between an
    ending's publishing and its mark, so a core NATS subscriber hears each ending once too.
    """

    name: str
    strike: Strike
    short: bool = False
    timeout: float = TIMEOUT_SECONDS
    lasting: bool = False
    all_complete: bool = True
    heard_once: bool = False


def killed(part: str) -> Strike:
    async def strike(fleet: Fleet) -> None:
        _one(fleet, part).kill()

    return strike


def frozen(part: str) -> Strike:
    async def strike(fleet: Fleet) -> None:
        process = _one(fleet, part)
        process.freeze()
        await asyncio.sleep(FREEZE_SECONDS)
        process.thaw()

    return strike


def _one(fleet: Fleet, part: str) -> Process:
    single = {"nats": fleet.nats, "model": fleet.model, "head": fleet.head}
    return single[part] if part in single else fleet.of(part)


async def actor_killed(fleet: Fleet) -> None:
    os.kill(fleet.actor_pids()[0], signal.SIGKILL)


async def actor_frozen(fleet: Fleet) -> None:
    victim = fleet.actor_pids()[0]
    os.kill(victim, signal.SIGSTOP)
    await asyncio.sleep(FREEZE_SECONDS)
    os.kill(victim, signal.SIGCONT)


async def nats_away(fleet: Fleet) -> None:
    fleet.nats.stay_down()
    fleet.nats.kill()
    await asyncio.sleep(AWAY_SECONDS)
    fleet.nats.come_back()


async def model_away(fleet: Fleet) -> None:
    fleet.model.stay_down()
    fleet.model.kill()
    await asyncio.sleep(FREEZE_SECONDS)
    fleet.model.come_back()


async def rolled(fleet: Fleet) -> None:
    """Restart every process of the service, one after the other, as a rolling update does."""
    for process in fleet.parts.values():
        await process.restart()


async def power_cut(fleet: Fleet) -> None:
    """Kill all at once."""
    for process in fleet.everyone:
        process.kill()


def hanging(strike: Strike) -> Strike:
    """No call ever ends. Every deliberation ends by its deadline, even if the killed process had received the
    deadline."""

    async def both(fleet: Fleet) -> None:
        await fleet.steer.behave(faults={"hang": 1.0})
        await asyncio.sleep(HANGING_DEADLINE_SECONDS)  # the first deadlines are due
        await strike(fleet)

    return both


def misbehaving(**faults: float) -> Strike:
    async def strike(fleet: Fleet) -> None:
        await fleet.steer.behave(latency_ms=300, faults=faults)

    return strike


CASES = (
    Case("intake killed", killed("intake"), short=True),
    Case("intake frozen for 5 s", frozen("intake")),
    Case("dispatch killed", killed("dispatch"), short=True, heard_once=True),
    Case("dispatch frozen for 5 s", frozen("dispatch")),
    Case("aggregate killed", killed("aggregate"), short=True),
    Case("aggregate frozen for 5 s", frozen("aggregate")),
    Case("Ray actor killed", actor_killed, short=True, heard_once=True),
    Case("Ray actor frozen for 5 s", actor_frozen),
    Case("Ray head killed", killed("head"), short=True),
    Case("nats-server killed", killed("nats"), short=True),
    Case("nats-server frozen for 5 s", frozen("nats")),
    Case("nats-server away for a minute", nats_away, timeout=2 * TIMEOUT_SECONDS),
    Case("model server killed", killed("model"), short=True, heard_once=True),
    Case("model server away for 5 s", model_away, all_complete=False),
    Case("model server frozen for 5 s", frozen("model")),
    Case(
        "model server: 20 % errors (500)",
        misbehaving(**{"500": 0.2}),
        lasting=True,
        all_complete=False,
        short=True,
        heard_once=True,
    ),
    Case(
        "model server: 20 % of calls hang",
        misbehaving(hang=0.2),
        lasting=True,
        timeout=SHORT_DEADLINE_SECONDS,
        all_complete=False,
    ),
    Case(
        "model server: 20 % of answers drip",
        misbehaving(drip=0.2),
        lasting=True,
        timeout=SHORT_DEADLINE_SECONDS,
        all_complete=False,
    ),
    Case("every part restarted in turn", rolled, heard_once=True),
    Case(
        "aggregate killed, no call ends",
        hanging(killed("aggregate")),
        short=True,
        lasting=True,
        timeout=HANGING_DEADLINE_SECONDS,
        all_complete=False,
    ),
    Case(
        "intake killed, no call ends",
        hanging(killed("intake")),
        lasting=True,
        timeout=HANGING_DEADLINE_SECONDS,
        all_complete=False,
    ),
    Case("everything killed at once", power_cut),
)
