"""Sees every step of a history and checks the invariants at each."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from parley.broker.core.messages import DeliberationStatus
from parley.broker.core.phase_plan import PhaseKind, Select
from parley.broker.core.states_and_moves import MOVES, State
from parley.broker.core.tally import Tally
from parley.broker.core.timestamps import format_timestamp
from parley.broker.jetstream import topology
from parley.broker.jetstream.store_probe import PROBED
from tests.simulation.consumer import Consumer
from tests.simulation.invariants import Invariant, Violation, holds
from tests.simulation.lateness import allowed
from tests.simulation.record import (
    Record,
    StoredOutcome,
    costs,
    countable,
    counts,
    decided_rightly,
    follows,
    may_have_decided,
    object_entry,
    payload,
    readable,
    says_the_same,
    stored_outcome,
)
from tests.simulation.rounds import seqs_shown
from tests.simulation.stream import Kept

if TYPE_CHECKING:
    from tests.simulation.server import Server

# The most that a process may be wrong about the server's clock.
CLOCK_ERROR_SECONDS = 1.0
_ENDINGS = (topology.COMPLETED, topology.FAILED)


def _choice_words(tally: Tally) -> Iterator[str]:
    """What there was of choosing, for the report."""
    yield from (f"phase {phase.kind}" for phase in tally.later_phases)
    if tally.choice is not None:
        yield f"choice {tally.choice.status}"
    if tally.synthesis is not None:
        yield f"synthesis {tally.synthesis.status}"


def _which(work: dict[str, Any]) -> tuple[int, str, str]:
    return int(work.get("round", 1)), str(work.get("phase", "answer")), str(work["agent_id"])


def _counted(tally: Tally) -> set[int]:
    return {outcome.seq for phase in tally.all_phases for outcome in phase.outcomes.values()}


def _decided_at(ending: dict[str, Any]) -> object:
    return ending.get("completed_at") or ending.get("timestamp")


def _agents(tally: Tally) -> set[str]:
    return {agent for phase in tally.all_phases for agent in phase.agents}


class Watcher:
    """`server` is set once it exists. `blind`: invariants that are not checked."""

    server: "Server"

    def __init__(self, blind: frozenset[Invariant] = frozenset()) -> None:
        self.blind = blind
        # By task_id and request_seq.
        self.records: dict[tuple[str, int], Record] = {}
        # How often each kind of event occurred, for the report.
        self.seen: Counter[str] = Counter()
        # The task_ids whose tally or ending others removed: what is promised of them is one ending.
        self._spoilt: set[str] = set()
        # The newest record of each task_id.
        self._live: dict[str, Record] = {}
        # What is stored, by sequence: requests, the task_ids of cancels, outcomes.
        self._requests: dict[int, Kept] = {}
        # Sequences of the requests that intake has not settled.
        self._untaken: set[int] = set()
        self._cancels: dict[int, str] = {}
        self._outcomes: dict[int, StoredOutcome] = {}
        # (task_id, agent, round) of the outcomes stored.
        self._reported: set[tuple[str, str, int]] = set()
        # (stream, sequence, consumer) of the messages in DEAD_LETTERS.
        self._dead_letters: set[tuple[str, int, str]] = set()
        # What to check when a message of each consumer is acknowledged.
        self._settle: dict[str, Callable[[Kept], None]] = {
            "intake": self._request_settled, "cancel": self._cancel_settled, "expire": self._deadline_settled,
            "dispatch": self._work_settled, "aggregate": self._outcome_settled,
        }  # fmt: skip

    def live(self, task_id: str) -> Record | None:
        record = self._live.get(task_id)
        if record is None or record.lost:
            return None
        return record if record.forgotten_at > self.server.now else None

    def purged(self, seqs: set[int]) -> None:
        """These messages of DELIBERATIONS are removed."""
        for record in self.records.values():
            left = [ending for ending in record.endings if ending.seq not in seqs]
            if len(left) < len(record.endings):
                record.ever_lost = True
                self._spoilt.add(record.tally.task_id)
            record.endings = left

    def lose(self, task_id: str) -> None:
        """Its tally is deleted or overwritten."""
        record = self._live.get(task_id)
        if record is not None:
            record.lost = record.ever_lost = True
            self._spoilt.add(task_id)
            self.seen["tally lost"] += 1

    # ── what is stored ────────────────────────────────────────────────────────────────────────────────────────────

    def stored(self, kept: Kept, before: Kept | None, by: str) -> None:
        match kept.stream:
            case _ if kept.subject in PROBED.values():
                pass
            case topology.TALLIES:
                self._tally(kept, before, by)
            case topology.AGENT_REQUESTS:
                self._asked(payload(kept.data))
            case topology.AGENT_RESPONSES:
                outcome = stored_outcome(kept)
                self._outcomes[kept.seq] = outcome
                self.seen["outcome of an agent stored again"] += (
                    outcome.task_id,
                    outcome.agent_id,
                    outcome.round,
                ) in self._reported
                self._reported.add((outcome.task_id, outcome.agent_id, outcome.round))
            case topology.DEAD_LETTERS:
                origin = kept.headers
                self._dead_letters.add(
                    (origin["Parley-Stream"], int(origin["Parley-Sequence"]), origin["Parley-Consumer"])
                )
            case _ if kept.subject in _ENDINGS:
                self._ending(kept, by)
            case _ if kept.subject.startswith(topology.TIMER):
                self._armed(payload(kept.data))
            case _ if kept.subject == topology.REQUESTED:
                self._requests[kept.seq] = kept
                self._untaken.add(kept.seq)
            case _ if kept.subject == topology.CANCEL:
                self._cancels[kept.seq] = str(payload(kept.data).get("task_id"))

    def _tally(self, kept: Kept, before: Kept | None, by: str) -> None:
        if not kept.data or "KV-Operation" in kept.headers:
            return  # what cannot be read is deleted
        tally = Tally.model_validate_json(kept.data)
        now = self.server.now
        key = (tally.task_id, tally.request_seq)
        known = self._live.get(tally.task_id)
        counted: set[int] = set()
        if known is not None and known.lost and key in self.records:
            record, known.lost = known, False
            if known.tally.ended:
                known.lost_decision = known.tally
            known.tally = tally
            counted = _counted(tally)
        elif before is None or (known is not None and known.lost):
            if key in self.records and not self._without_trace(self.records[key]):
                raise Violation(
                    Invariant.ONE_ENDING, f"request {tally.request_seq} of {tally.task_id} was recorded twice"
                )
            if not any(tally.state in leads for (state, _), leads in MOVES.items() if state is None):
                raise Violation(Invariant.ABSORBS, f"{tally.task_id} began as {tally.state}")
            record = self.records[key] = self._live[tally.task_id] = Record(tally, now)
        else:
            record = self._live[tally.task_id]
            follows(self._as_seen(record.tally, by), tally, kept.at)
            counted = _counted(record.tally)
            record.narrowed |= by in self.server.old_versions and bool(record.tally.later_phases)
        newly_ended = tally.ended and (before is None or not record.tally.ended)
        record.tally = tally
        record.forgotten_at = kept.expires if kept.expires is not None else float("inf")
        if len(_counted(tally)) > len(counted):
            counts(tally, self._outcomes)
        if newly_ended:
            record.decided_at = now
            self._decided_now(tally)
            if tally.task_id not in self._spoilt:
                decided_rightly(
                    tally, self._requests[tally.request_seq], tally.task_id in self._cancels.values()
                )
            self.seen[f"ended {tally.state}"] += 1
            self.seen.update(_choice_words(tally))
        if tally.ending_seq is not None:
            self._marked(record, tally)

    def _without_trace(self, record: Record) -> bool:
        """Whether nothing that is stored tells that it has ended: its tally was forgotten in its time, and others
        had removed its ending."""
        return record.marked and not record.endings and record.forgotten_at <= self.server.now

    def _decided_now(self, tally: Tally) -> None:
        """Check that a decision is neither of the future nor older than its request: its message may have waited."""
        assert tally.verdict is not None
        at = tally.verdict.decided_at
        if at > self.server.now + CLOCK_ERROR_SECONDS or at < tally.accepted_at - CLOCK_ERROR_SECONDS:
            raise Violation(
                Invariant.ONE_CLOCK,
                f"{tally.task_id} was decided {tally.state} {at - self.server.now:+.3f} s from now",
            )

    def _marked(self, record: Record, tally: Tally) -> None:
        if tally.task_id not in self._spoilt and tally.ending_seq not in [
            ending.seq for ending in record.endings
        ]:
            raise Violation(
                Invariant.MARK_KEPT, f"{tally.task_id} is marked {tally.ending_seq}, where its ending is not"
            )
        if self._is_anothers(record, tally.ending_seq):
            raise Violation(
                Invariant.MARK_KEPT,
                f"{tally.task_id} of request {tally.request_seq} is marked {tally.ending_seq}, the ending of an earlier one",
            )
        self._met(record)
        if tally.reply_to is not None and not record.sent and not self._struck("inbox"):
            raise Violation(
                Invariant.HEARD, f"{tally.task_id} is marked, and {tally.reply_to} was sent nothing"
            )

    def _is_anothers(self, record: Record, seq: int | None) -> bool:
        """Whether the ending at `seq` is that of another deliberation of the name, decided before this was asked for.
        One that was decided later may stand for both."""
        return any(
            seq in [ending.seq for ending in other.endings]
            and other.tally.verdict is not None
            and other.tally.verdict.decided_at < record.tally.accepted_at
            for (name, _), other in self.records.items()
            if name == record.tally.task_id and other is not record
        )

    def _met(self, record: Record) -> None:
        """Note whether two messages that may have decided it are being handled, between its verdict and its mark."""
        if not self.server.disturbed and not record.met:
            record.met = (
                sum(may_have_decided(kept, record.tally) for kept in self._in_hand(record.tally.task_id)) > 1
            )

    def _struck(self, label: str) -> bool:
        return any(struck.label == label for struck in self.server.faults.struck)

    def _asked(self, work: dict[str, Any]) -> None:
        lost = self._live.get(str(work["task_id"]))
        if lost is not None and work["task_id"] in self._spoilt:
            lost.asked.add(_which(work))
            return
        record = self.live(str(work["task_id"]))
        if record is None or work["agent_id"] not in _agents(record.tally):
            raise Violation(
                Invariant.RECORD_FIRST,
                f"{work['agent_id']} of {work['task_id']} was asked with nothing recorded",
            )
        self.seen["agent asked again"] += _which(work) in record.asked
        record.asked.add(_which(work))
        if work.get("phase") == PhaseKind.RANK:
            seen = [self._outcomes[one["seq"]].agent_id for one in work["candidates"]]
            told = f"{work['agent_id']} of {work['task_id']} is shown {seen}"
            holds(Invariant.NOT_OWN, work["agent_id"] not in seen, told)
        if work.get("phase") == PhaseKind.REVISE:
            shown = [one["seq"] for one in work["candidates"]]
            right = seqs_shown(record.tally, work["round"], work["agent_id"])
            told = f"{work['agent_id']} of {work['task_id']} revises {shown}, should be {right}"
            holds(Invariant.ROUNDS, shown == right, told)

    def _armed(self, deadline: dict[str, object]) -> None:
        task_id = str(deadline["task_id"])
        record = self._live.get(task_id)
        if record is None or (record.forgotten_at <= self.server.now and not record.lost):
            if deadline.get("request_seq") in self._requests:
                return  # asked for: a stranger's early deadline comes again at its time
            raise Violation(
                Invariant.RECORD_FIRST, f"the deadline of {task_id} was armed with nothing recorded"
            )
        record.armed_at = min(record.armed_at, self.server.now)

    # ── endings ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _ending(self, kept: Kept, by: str) -> None:
        body = payload(kept.data)
        task_id = str(body["task_id"])
        record = self._decided_before(task_id, body) or self._live.get(task_id)
        if record is None or not record.tally.ended:
            raise Violation(Invariant.AGREES, f"an ending of {task_id} is stored that no tally decided")
        record.endings.append(kept)
        if len(record.endings) > 1:
            places = [ending.seq for ending in record.endings]
            how = ", for a stranger's hold on its Msg-Id ran out" if record.squatted else ""
            raise Violation(
                Invariant.ONE_ENDING,
                f"{task_id} has endings at {places}, marked {record.tally.ending_seq}{how}",
            )
        self._whole(kept)
        decided = record.decided(_decided_at(body))
        says_the_same(self._as_seen(decided, by), kept, self._results(kept))
        if task_id not in self._spoilt:
            costs(self._as_seen(record.tally, by), kept, self._outcomes)
        self._met(record)
        self._carried(record)
        late = kept.at - record.tally.deadline
        faults, condition = self.server.faults.struck, self.server.condition
        excused = allowed(faults, record.tally.deadline) + (condition.late(record) if condition else 0.0)
        if record.tally.phases and late > excused and record is self._live[task_id]:
            raise Violation(
                Invariant.IN_TIME, f"the ending of {task_id} came {late:.3f} s after its deadline"
            )

    def _decided_before(self, task_id: str, ending: dict[str, Any]) -> Record | None:
        """The earlier deliberation of the name, its tally lost, whose ending was on its way while the name was asked for
        again."""
        decided = _decided_at(ending)
        for (name, _), record in self.records.items():
            verdict = record.tally.verdict
            earlier = name == task_id and record.ever_lost and record is not self._live[task_id]
            if earlier and verdict is not None and format_timestamp(verdict.decided_at) == decided:
                return record
        return None

    def _results(self, kept: Kept) -> list[dict[str, object]]:
        """An ending's results, from the object store if they are there."""
        body = payload(kept.data)
        ref = body.get("results_ref")
        if not ref:
            return list(body["results"])
        self.seen["results in the object store"] += 1
        objects = self.server.streams[topology.RESULTS].messages.values()
        data = b"".join(one.data for one in objects if one.subject == self._chunks(ref["name"]))
        if len(data) != ref["size"]:
            raise Violation(
                Invariant.WHOLE,
                f"the object {ref['name']} has {len(data)} bytes of {ref['size']}, its ending is stored",
            )
        return list(json.loads(data))

    def _chunks(self, name: str) -> str:
        entry = object_entry(name)
        stored = self.server.streams[topology.RESULTS].newest(entry, self.server.now)
        return f"$O.{topology.RESULTS_BUCKET}.C.{payload(stored.data)['nuid']}" if stored is not None else ""

    def _whole(self, kept: Kept) -> None:
        """Check that an ending leaves out only what neither fits nor is taken by the object store."""
        left_out = payload(kept.data).get("left_out") or []
        if not left_out:
            return
        self.seen[f"left out: {', '.join(left_out)}"] += 1
        taken = topology.RESULTS not in self.server.refusing and not self.server.faults.struck
        if "results" in left_out and taken:
            raise Violation(Invariant.WHOLE, f"an ending of {len(kept.data)} bytes leaves out its results")

    def repeated(self, kept_seq: int, subject: str, data: bytes) -> None:
        """A message was dropped as a duplicate of the one at `kept_seq`."""
        if subject == topology.AGENT_REQUESTED:
            work = payload(data)
            record = self.live(work["task_id"])
            if record is not None and not record.tally.ended and _which(work) not in record.asked:
                raise Violation(
                    Invariant.EFFECTS_FIRST,
                    f"a namesake's work stands for that of {work['agent_id']}, dropped by its Msg-Id",
                )
        if subject in _ENDINGS:
            record = self._live[str(payload(data)["task_id"])]
            if kept_seq in [ending.seq for ending in record.endings]:
                self._carried(record)
            elif self._is_anothers(record, kept_seq):
                self.seen["ending's Msg-Id still an earlier deliberation's"] += 1
            else:
                self.seen["ending's Msg-Id taken by a stranger"] += 1
                record.squatted = True

    def _carried(self, record: Record) -> None:
        record.carried += 1
        if record.carried < 2:
            return
        self.seen["ending carried twice by core NATS"] += 1
        if not self.server.disturbed:
            self.seen["ending carried twice by core NATS, no fault"] += 1
            self._met(record)
            if not record.met:
                raise Violation(
                    Invariant.HEARD_ONCE, f"{record.tally.task_id} was carried {record.carried} times"
                )

    def _in_hand(self, task_id: str) -> list[Kept]:
        """The messages about a deliberation that are delivered and not settled."""
        held = [
            consumer.stream.messages.get(seq)  # none: a full stream has dropped it meanwhile
            for consumer in self.server.consumers.values()
            for seq in consumer.handed
            if consumer.durable.name != "dispatch"
        ]
        return [kept for kept in held if kept is not None and payload(kept.data).get("task_id") == task_id]

    def heard(self, subject: str, data: bytes) -> None:
        if subject.startswith("_INBOX"):
            record = self._live[str(payload(data)["task_id"])]
            record.sent += 1

    def told(self, subject: str, data: bytes) -> None:
        """A process has sent this over core NATS, which may lose it."""
        if subject == topology.AGENT_CANCEL:
            cancel = payload(data)
            stopped = self._live.get(str(cancel["task_id"]))
            if stopped is not None and cancel.get("phase"):
                stopped.stopped.add((cancel["round"], cancel["phase"]))

    # ── what is acknowledged ──────────────────────────────────────────────────────────────────────────────────────

    def settled(self, consumer: Consumer, kept: Kept, by: str) -> None:
        name = consumer.durable.name
        if name == "intake":
            self._untaken.discard(kept.seq)
        if (kept.stream, kept.seq, name) in self._dead_letters:
            self.seen["dead letter"] += 1
            if name != "intake":
                return
        elif not readable(kept):
            raise Violation(
                Invariant.NOT_LOST,
                f"{name} acknowledged {kept.seq}, which is unreadable, and did not dead-letter it",
            )
        task_id = str(payload(kept.data).get("task_id"))
        if Invariant.EFFECTS_FIRST in self.blind or task_id in self._spoilt:
            return
        if by in self.server.old_versions and self._chooses(task_id):
            self.seen["settled by an older version that knows no choice"] += 1
        else:
            self._settle[name](kept)

    def _chooses(self, task_id: str) -> bool:
        record = self._live.get(task_id)
        return record is not None and record.tally.select is not Select.NONE

    def _as_seen(self, tally: Tally, by: str) -> Tally:
        """What whoever has this name sees of a tally."""
        old = self.server.old_versions.get(by)
        return tally if old is None else old.sees(tally)

    def _request_settled(self, kept: Kept) -> None:
        task_id = str(payload(kept.data).get("task_id") or f"d-{kept.seq}")
        record = self.records.get((task_id, kept.seq))
        if record is not None:
            if not record.marked and not record.begun:
                raise Violation(
                    Invariant.EFFECTS_FIRST,
                    f"request {kept.seq} was acknowledged with its effects not stored",
                )
            return
        namesakes = (other for (name, _), other in self.records.items() if name == task_id)
        if not any(other.forgotten_at > kept.at for other in namesakes):
            raise Violation(
                Invariant.NOT_LOST, f"request {kept.seq} of {task_id} was acknowledged, recorded nowhere"
            )

    def _cancel_settled(self, kept: Kept) -> None:
        task_id = str(payload(kept.data)["task_id"])
        record = self.live(task_id)
        if record is not None and record.tally.request_seq < kept.seq:
            # A cancel that was stored before its request may have been acknowledged as one of an unknown
            # deliberation; then the deadline publishes what it decided. Any other cancel that decided the ending must
            # stay until that is marked.
            if not record.tally.ended:
                raise Violation(
                    Invariant.EFFECTS_FIRST,
                    f"the cancel {kept.seq} of {task_id} was acknowledged; it goes on",
                )
            others = (
                self._cancels.get(seq) for seq in self.server.consumers["cancel"].handed if seq != kept.seq
            )
            if record.tally.state is State.CANCELLED and not record.marked and task_id not in others:
                raise Violation(
                    Invariant.EFFECTS_FIRST,
                    f"the cancel {kept.seq} decided {task_id} and was acknowledged first",
                )
        if record is None:
            self.seen["cancel for nobody"] += 1
            for seq in self.server.consumers["intake"].handed:
                if seq < kept.seq and payload(self._requests[seq].data).get("task_id") == task_id:
                    raise Violation(
                        Invariant.EFFECTS_FIRST, f"the cancel {kept.seq} did not wait for request {seq}"
                    )

    def _deadline_settled(self, kept: Kept) -> None:
        record = self.live(str(payload(kept.data)["task_id"]))
        if record is None or record.created_at > kept.at or record.marked:
            return
        deadline = record.tally.deadline if record.tally.ended else record.tally.limit
        if not record.tally.ended and self._is_in_hand("aggregate", record.tally.phase.opened_by):
            return  # this outcome has opened a phase whose limit was past by then, and has its alarm to set
        if kept.at >= deadline:
            raise Violation(
                Invariant.EFFECTS_FIRST, f"the deadline {kept.seq} was acknowledged, its ending not marked"
            )
        self._opened_by_alarm(record, kept)
        again = topology.timer_subject(record.tally.task_id) in self.server.timers or self.server.consumers[
            "expire"
        ].comes(kept)
        if not record.tally.ended and not again and self.server.now < deadline - 0.001:
            raise Violation(
                Invariant.EFFECTS_FIRST,
                f"the early deadline {kept.seq} was acknowledged, and nothing is armed",
            )

    def _is_in_hand(self, consumer: str, seq: int | None) -> bool:
        return seq in self.server.consumers[consumer].handed

    def _opened_by_alarm(self, record: Record, kept: Kept) -> None:
        phase = record.tally.phase
        mine = phase.opened_at is not None and phase.opened_by is None and kept.at >= phase.opened_at
        if mine and record.tally.later_phases and not record.tally.ended:
            record.opened_is_begun(f"the alarm {kept.seq}")

    def _work_settled(self, kept: Kept) -> None:
        work = payload(kept.data)
        record = self.live(str(work["task_id"]))
        if record is None or record.created_at > kept.at:
            return  # it is work of an earlier deliberation of this name
        phase = record.tally.phase
        is_current = (work.get("round", 1), work.get("phase", "answer")) == (phase.number, phase.kind)
        if record.tally.ended or not is_current or work["agent_id"] in phase.outcomes:
            return
        if (work["task_id"], work["agent_id"], work.get("round", 1)) not in self._reported:
            raise Violation(
                Invariant.EFFECTS_FIRST,
                f"the work of {work['agent_id']} was acknowledged, its outcome not stored",
            )

    def _outcome_settled(self, kept: Kept) -> None:
        outcome = self._outcomes[kept.seq]
        record = self.live(outcome.task_id)
        if record is None or record.marked or record.created_at > kept.at:
            return
        tally = record.tally
        if tally.ended and may_have_decided(kept, tally):
            raise Violation(
                Invariant.EFFECTS_FIRST,
                f"outcome {kept.seq} decided {tally.task_id} and was acknowledged first",
            )
        if not tally.ended and tally.phase.opened_by == kept.seq:
            record.opened_is_begun(f"outcome {kept.seq}")
        if not tally.ended and countable(tally, outcome) and not record.narrowed:
            raise Violation(
                Invariant.EFFECTS_FIRST, f"outcome {kept.seq} was acknowledged and is not counted"
            )

    # ── at rest, and when asked ───────────────────────────────────────────────────────────────────────────────────

    @property
    def unfinished(self) -> bool:
        return not all(self._ended(record) for record in self.records.values())

    def _ended(self, record: Record) -> bool:
        """Whether it has its one ending. Where its tally was lost, a later request of its name may stand for it."""
        if record.ever_lost:
            later = self._live[record.tally.task_id]
            return record.marked or len(record.endings) == 1 or (later is not record and later.marked)
        if not record.endings and record.marked and record.tally.task_id in self._spoilt:
            # That of an earlier one, decided after this was asked for (see `_is_anothers`), stands for it.
            seq, records = record.tally.ending_seq, self.records.items()
            earlier = [
                other for (name, _), other in records if name == record.tally.task_id and other.ever_lost
            ]
            return any(seq == ending.seq for other in earlier for ending in other.endings)
        return len(record.endings) == 1 and record.marked

    def rested(self) -> None:
        """Nothing is left to do: every deliberation must have its ending by now."""
        if self._untaken and Invariant.NOT_LOST not in self.blind:
            raise Violation(
                Invariant.NOT_LOST,
                f"requests {sorted(self._untaken)} were acknowledged to their clients and are gone",
            )
        for (task_id, seq), record in self.records.items():
            if not self._ended(record):
                raise Violation(
                    Invariant.AN_ENDING,
                    f"{task_id} of request {seq} is {record.tally.state} with {len(record.endings)} endings stored, "
                    f"marked {record.tally.ending_seq}",
                )

    def restless(self) -> None:
        """The history has not come to rest in time."""
        left = [
            f"{name} {sorted(consumer.handed)}"
            for name, consumer in self.server.consumers.items()
            if not consumer.idle
        ]
        armed = ", ".join(self.server.timers)
        raise Violation(
            Invariant.COMES_TO_REST, f"still unsettled: {'; '.join(left)}; timers: {armed or 'none'}"
        )

    def answered(self, status: DeliberationStatus) -> None:
        if status.ending_seq is None:
            return
        self.seen["question answered with an ending"] += 1
        endings = [
            ending
            for (name, _), record in self.records.items()
            if name == status.task_id
            for ending in record.endings
        ]
        known = {ending.seq: payload(ending.data)["status"].upper() for ending in endings}
        shown = {"CANCELLED": "FAILED", "REJECTED": "FAILED"}
        told_status = known.get(status.ending_seq, "")
        if shown.get(told_status, told_status) != status.status:
            raise Violation(
                Invariant.STATUS_TRUE,
                f"{status.task_id} is told to be {status.status}, the stream holds {known}",
            )

    def killed(self) -> None:
        """A process was killed: count between which steps."""
        for record in self.records.values():
            if record.endings and not record.marked:
                self.seen["killed between ending and mark"] += 1
            elif record.tally.ended and not record.endings:
                self.seen["killed between verdict and ending"] += 1
            elif not record.tally.ended and not record.begun:
                self.seen["killed between record and fan-out"] += 1
            elif not record.tally.ended and self._in_hand(record.tally.task_id):
                self.seen["killed with a message in hand"] += 1
