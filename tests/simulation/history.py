"""One history: everything that a seed decides, run to its end, with every invariant checked on the way."""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from unittest.mock import patch

from parley.broker.core.messages import DeliberationGet
from parley.broker.core.observer import Observer
from parley.handlers.routes import Part
from tests.simulation import asking, faults
from tests.simulation.clock import virtual_time
from tests.simulation.conditions.choice import condition_of
from tests.simulation.conditions.payload import Payload
from tests.simulation.invariants import Invariant, Violation
from tests.simulation.lateness import NOTICED_SECONDS, RESTART_SECONDS
from tests.simulation.loop import BEGINNING, VirtualLoop, in_context
from tests.simulation.plan import Plan
from tests.simulation.process import Process
from tests.simulation.roles import Role
from tests.simulation.scan import scan
from tests.simulation.server import Server
from tests.simulation.trace import Trace
from tests.simulation.watch import Watcher

# Steps of a history that a failure tells.
TOLD_STEPS = 60
# After the last deadline: what is unsettled by then stays so. Longer than a worker waits for a broker that is away.
_PATIENCE_SECONDS = 1_300.0


@dataclass(slots=True)
class HistoryResult:
    """How a history ended. `seen`: how often it went through each situation."""

    seed: int
    violation: Violation | None
    condition: str
    trace: Trace
    seen: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        replay = f"python -m tests.simulation --seed {self.seed} --trace"
        return f"seed {self.seed} ({self.condition}): {self.violation}\n{self.trace.told(TOLD_STEPS)}\n      again: {replay}"


class OutcomeCounter(Observer):
    """The handlers' observer: counts the outcomes that changed nothing."""

    def __init__(self, seen: Counter[str]) -> None:
        self._seen = seen

    def outcome_ignored(self, outcome: object) -> None:
        self._seen["outcome ignored"] += 1


class LoggedErrors(logging.Handler):
    """Collects what the code under test logs with a traceback: failures that no fault explains."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info is not None and record.exc_info[1] is not None:
            self.found.append(f"{record.getMessage()}: {record.exc_info[1]!r}")


LOGGED_ERRORS = LoggedErrors()


@contextmanager
def simulated() -> Iterator[None]:
    """Virtual time where the handlers read it, and their log off the screen. Around any number of histories."""
    log = logging.getLogger("parley")
    before = log.level, log.propagate
    log.setLevel(logging.ERROR)
    log.propagate = False
    log.addHandler(LOGGED_ERRORS)
    try:
        with (
            virtual_time(),
            patch("parley.handlers.deadline_rearm.scan", scan),
            patch("parley.handlers.stored_ending_lookup.scan", scan),
            patch("parley.handlers.lost_tally_ending.scan", scan),
            patch("parley.handlers.untaken_request_lookup.scan", scan),
        ):
            yield
    finally:
        log.removeHandler(LOGGED_ERRORS)
        log.level, log.propagate = before


class History:
    def __init__(self, seed: int, blind: frozenset[Invariant] = frozenset()) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.condition = condition_of(seed, Plan.of(self.rng))
        self.plan = self.condition.plan
        if all(role.old is None or role.old.chooses for role in self.plan.roles):
            # From random numbers of their own, so that every seed keeps its plan.
            choices = random.Random(f"{seed} choices")
            many = not isinstance(self.condition, Payload)
            asked = tuple(asking.with_choice(one, choices, many=many) for one in self.plan.asked)
            if all(role.old is None for role in self.plan.roles):
                rounds = random.Random(f"{seed} rounds")
                asked = tuple(asking.with_rounds(one, rounds, many=many) for one in asked)
            self.plan = replace(self.plan, asked=asked)
        self.trace = Trace()
        self.eyes = Watcher(blind)
        self.faults = faults.Faults(list(self.plan.faults))
        self.parcels = faults.Faults(faults.parcels(random.Random(f"{seed} parcels"), len(self.plan.asked)))
        self.pulls = faults.Faults(faults.pulls(random.Random(f"{seed} pulls"), len(self.plan.asked)))
        # They make endings late, so they count among those of the plan.
        self.pulls.struck = self.faults.struck
        self.processes: list[Process] = []
        # Seconds at rest with something unfinished.
        self._waited = 0.0
        self._made = 0
        self._starting = 0

    def run(self) -> HistoryResult:
        """Run inside `simulated()`."""
        loop = VirtualLoop()
        LOGGED_ERRORS.found.clear()
        violation = None
        try:
            loop.run(self._run())
        except Violation as found:
            violation = found
        return HistoryResult(self.seed, violation, self.condition.name, self.trace, self._seen())

    async def _run(self) -> None:
        plan = self.plan
        self.server = Server(
            self.rng, self.faults, self.eyes, self.trace, keep_seconds=plan.keep_seconds, latency=plan.latency
        )
        self.server.condition = self.condition
        self.server.blind = self.eyes.blind
        self.server.parcels = self.parcels
        self.server.pulls = self.pulls
        self.eyes.server = self.server
        self.condition.begin(self)
        for role in plan.roles:
            self._start_one(role)
        doing = [self._do(asked, place) for asked in plan.asked for place in range(len(asked.acts))]
        looking = [self._look(asked.task_id, at) for asked in plan.asked for at in asked.looks]
        tasks = [asyncio.create_task(work) for work in (*doing, *looking)]
        try:
            await self._to_its_end(tasks)
        finally:
            for process in self.processes:
                process.close()

    async def _do(self, asked: asking.Asked, place: int) -> None:
        await asking.publish(self.server, asked, asked.acts[place], f"client {asked.task_id}")

    async def _look(self, task_id: str, at: float) -> None:
        await asyncio.sleep(at)
        alive = [
            process for process in self.processes if not process.dead and Part.QUERY in process.role.parts
        ]
        if alive:
            in_context(alive[0].context, self._ask(alive[0], task_id))

    async def _ask(self, process: Process, task_id: str) -> None:
        self.eyes.answered(await process.query(DeliberationGet(task_id=task_id).encode()))

    async def _to_its_end(self, tasks: "list[asyncio.Task[None]]") -> None:
        end = max(BEGINNING + self.plan.last_deadline, self.condition.ends) + _PATIENCE_SECONDS
        while self.server.now < end:
            await asyncio.sleep(1.0 if self.server.now < BEGINNING + 10 else 10.0)
            self._look_for_bugs()
            done = all(task.done() for task in tasks) and self.server.at_rest and not self._starting
            if done and not await self._goes_on():
                break
        else:
            self.eyes.restless()
        for task in tasks:
            task.result()
        self.eyes.rested()

    async def _goes_on(self) -> bool:
        """Whether the service may yet notice by itself what is unfinished: its reminder was lost."""
        if not self.eyes.unfinished or self._waited >= NOTICED_SECONDS:
            return False
        self._waited += 1.0
        await asyncio.sleep(1.0)
        return True

    def _look_for_bugs(self) -> None:
        for context in self._loop.errors:
            if isinstance(context.get("exception"), Violation):
                raise context["exception"]
        found = LOGGED_ERRORS.found + [repr(context.get("exception")) for context in self._loop.errors]
        if found:
            raise Violation(Invariant.NO_BUG, found[0])

    @property
    def _loop(self) -> VirtualLoop:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        return loop

    # ── processes ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _start_one(self, role: Role) -> None:
        self._made += 1
        observer = OutcomeCounter(self.eyes.seen)
        process = Process(self.server, f"p{self._made}", role, self.plan.options, observer, self._killed)
        self.processes.append(process)
        process.start()

    def _killed(self, process: Process) -> None:
        self.eyes.killed()
        self._starting += 1
        wait = self.rng.choice((0.0, 0.1, 1.0)) * RESTART_SECONDS
        wait = max(wait, self.condition.back_at(process.role) - self.server.now)
        self.trace.add(self.server.now, process.name, "is dead", f"another starts in {wait:g} s")
        self.server.loop.call_later(wait, self._restart, process.role)

    def _restart(self, role: Role) -> None:
        self._starting -= 1
        self._start_one(role)

    def _seen(self) -> Counter[str]:
        seen = self.eyes.seen
        seen[f"condition: {self.condition.name}"] += 1
        for struck in (*self.faults.struck, *self.parcels.struck):
            seen[f"fault: {struck.fault.kind}"] += 1
        seen["deliberations"] += len(self.eyes.records)
        seen["steps"] += len(self.trace)
        seen["compare-and-set refused"] += self.server.conflicts
        seen["dropped by Msg-Id"] += self.server.duplicates
        seen["redelivered"] += sum(consumer.redelivered for consumer in self.server.consumers.values())
        seen["histories with a fault"] += bool(self.faults.struck)
        return seen


def run(seed: int, blind: frozenset[Invariant] = frozenset()) -> HistoryResult:
    """`blind`: invariants that are not checked, so that what follows from breaking them is seen. Run inside
    `simulated()`."""
    return History(seed, blind).run()
