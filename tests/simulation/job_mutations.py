"""Rules of the job book broken on purpose, each with the invariant that must notice."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

from parley.workers.job_message import AgentJob
from parley.workers.pool.job_book import JobBook
from tests.simulation.invariants import Invariant
from tests.simulation.mutations import Mutation

_settle = JobBook.settle
_remove_worker = JobBook.remove_worker


def _resends_nothing(
    self: JobBook, worker: int, asked: Sequence[str], missing: Iterable[str]
) -> list[AgentJob]:
    return []


def _asks_for_nothing(self: JobBook, worker: int, now: float) -> list[str]:
    return []


def _sends_unrecorded(self: JobBook, worker: int, job: AgentJob, now: float) -> bytes:
    return job.body


def _gives_nothing_back(self: JobBook, worker: int) -> list[AgentJob]:
    _remove_worker(self, worker)
    return []


def _frees_no_slot(self: JobBook, worker: int, keys: Iterable[str]) -> int:
    _settle(self, worker, keys)
    return 0


def _frees_twice(self: JobBook, worker: int, keys: Iterable[str]) -> int:
    return 2 * _settle(self, worker, keys)


def _fills_the_first(self: JobBook) -> int | None:
    return next(iter(self._workers), None)


def _book(name: str, broken: Callable[..., Any]) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: patch.object(JobBook, name, broken)


# Not here, because it is harmless: "sends again what was settled". A worker remembers what it settled.
JOB_MUTATIONS = (
    Mutation("never sends a lost job again", Invariant.HANDED_OVER, _book("confirm", _resends_nothing)),
    Mutation("never asks for a lost job", Invariant.HANDED_OVER, _book("overdue", _asks_for_nothing)),
    Mutation(
        "does not record what goes over NATS", Invariant.HANDED_OVER, _book("message", _sends_unrecorded)
    ),
    Mutation(
        "gives nothing back at a death", Invariant.HANDED_OVER, _book("remove_worker", _gives_nothing_back)
    ),
    Mutation("frees no slot", Invariant.COMES_TO_REST, _book("settle", _frees_no_slot)),
    Mutation("frees a slot twice", Invariant.WITHIN_SLOTS, _book("settle", _frees_twice)),
    Mutation(
        "gives each job to the first worker", Invariant.WITHIN_SLOTS, _book("_least_loaded", _fills_the_first)
    ),
)
