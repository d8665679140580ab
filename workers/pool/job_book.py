"""Which worker has which job. Pure: no I/O and no clock, callers pass `now`. Every pool keeps one.

A job's key is the subject that acknowledges its delivery. A job that is sent over NATS counts as unconfirmed until
its worker says that it has it: core NATS promises no delivery. Small jobs go over NATS while few are unconfirmed, the
others as a call.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from parley.workers.job_message import MAX_UNCONFIRMED, AgentJob, pack

# A worker is asked for a job this long after it was sent over NATS. If it has not got it, the job is sent as a call.
RESEND_SECONDS = 1.0


@dataclass(slots=True)
class _Assigned:
    """What one worker has."""

    # By key.
    jobs: dict[str, AgentJob] = field(default_factory=dict)
    # By key, the time at which a job was sent over NATS. In the order of sending.
    unconfirmed: dict[str, float] = field(default_factory=dict)


class JobBook:
    """`resend_seconds`: how long a job may be unconfirmed before its worker is asked for it."""

    def __init__(self, resend_seconds: float = RESEND_SECONDS) -> None:
        self.resend_seconds = resend_seconds
        # By the worker's number: the workers that take jobs now.
        self._workers: dict[int, _Assigned] = {}

    def __len__(self) -> int:
        """Jobs that workers have: as many slots are taken."""
        return sum(len(assigned.jobs) for assigned in self._workers.values())

    def jobs(self, worker: int) -> Collection[str]:
        """The keys of what this worker has. None for a worker that is not here."""
        return self._workers[worker].jobs.keys() if worker in self._workers else ()

    def add_worker(self, worker: int) -> None:
        self._workers[worker] = _Assigned()

    def remove_worker(self, worker: int) -> list[AgentJob]:
        """A worker is dead. Returns its jobs, to be given back to the queue; their slots are free."""
        return list(self._workers.pop(worker).jobs.values())

    def assign(self, jobs: Iterable[AgentJob]) -> tuple[dict[int, list[AgentJob]], list[AgentJob]]:
        """Give each job to the worker with the fewest.

        Returns what each worker is to be sent, each such job taking a slot, and the jobs to be given back because
        there is no worker. A job that a worker has already is left out.
        """
        shares: dict[int, list[AgentJob]] = {}
        unplaced = []
        for job in jobs:
            if any(job.key in assigned.jobs for assigned in self._workers.values()):
                continue
            worker = self._least_loaded()
            if worker is None:
                unplaced.append(job)
                continue
            self._workers[worker].jobs[job.key] = job
            shares.setdefault(worker, []).append(job)
        return shares, unplaced

    def _least_loaded(self) -> int | None:
        return min(self._workers, key=lambda worker: len(self._workers[worker].jobs), default=None)

    def message(self, worker: int, job: AgentJob, now: float) -> bytes | None:
        """The message that carries a job to its worker over NATS, to be sent at once.

        None if the job must go as a call: it is too large, or too many jobs are unconfirmed. Also None if this worker
        does not have the job any more.
        """
        assigned = self._workers.get(worker)
        if assigned is None or job.key not in assigned.jobs or len(assigned.unconfirmed) >= MAX_UNCONFIRMED:
            return None
        message = pack(job)
        if message is not None:
            assigned.unconfirmed[job.key] = now
        return message

    def not_sent(self, worker: int, key: str) -> None:
        """The message could not be sent: the job goes as a call."""
        if worker in self._workers:
            self._workers[worker].unconfirmed.pop(key, None)

    def settle(self, worker: int, keys: Iterable[str]) -> int:
        """The worker reports these jobs as settled. Returns how many slots that frees."""
        assigned, freed = self._workers.get(worker), 0
        if assigned is None:
            return 0
        for key in keys:
            assigned.unconfirmed.pop(key, None)
            freed += assigned.jobs.pop(key, None) is not None
        return freed

    def overdue(self, worker: int, now: float) -> list[str]:
        """The keys that this worker is to be asked for: sent `resend_seconds` ago or earlier, and unconfirmed."""
        sent_by = now - self.resend_seconds
        return [key for key, sent_at in self._unconfirmed(worker).items() if sent_at <= sent_by]

    def confirm(self, worker: int, asked: Sequence[str], missing: Iterable[str]) -> list[AgentJob]:
        """Of the jobs `asked` for, the worker never got those `missing`. Returns the jobs to call it with.

        A job that was settled meanwhile, or given back, is not sent again.
        """
        for key in asked:
            self.not_sent(worker, key)
        assigned = self._workers.get(worker)
        return [assigned.jobs[key] for key in missing if key in assigned.jobs] if assigned is not None else []

    def unconfirmed(self, worker: int) -> list[str]:
        """The keys that a worker is told when it is stopped: it gives back those that it never got."""
        return list(self._unconfirmed(worker))

    def _unconfirmed(self, worker: int) -> dict[str, float]:
        return self._workers[worker].unconfirmed if worker in self._workers else {}
