"""The job book: which worker has which job, what is sent again, and what is given back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.workers.job_message import MAX_JOB_BYTES, MAX_UNCONFIRMED, AgentJob, pack
from parley.workers.pool.job_book import RESEND_SECONDS, JobBook


def jobs(*numbers: int) -> list[AgentJob]:
    return [AgentJob(f"key-{number}", b"{}") for number in numbers]


def keys(*numbers: int) -> list[str]:
    return [job.key for job in jobs(*numbers)]


def book(*workers: int) -> JobBook:
    made = JobBook()
    for worker in workers:
        made.add_worker(worker)
    return made


def test_each_job_goes_to_the_worker_with_the_fewest() -> None:
    made = book(1, 2)
    made.assign(jobs(1, 2, 3))
    made.settle(2, keys(2))
    shares, unplaced = made.assign(jobs(4, 5))
    assert (shares, unplaced) == ({2: jobs(4, 5)}, [])
    assert len(made) == 4


def test_without_workers_jobs_are_given_back() -> None:
    assert book().assign(jobs(1, 2)) == ({}, jobs(1, 2))


def test_a_job_that_a_worker_has_is_not_assigned_again() -> None:
    made = book(1, 2)
    made.assign(jobs(1))
    assert made.assign(jobs(1, 2, 2)) == ({2: jobs(2)}, [])
    assert len(made) == 2


def test_a_settled_job_frees_its_slot_once() -> None:
    made = book(1, 2)
    made.assign(jobs(1))
    assert made.settle(2, keys(1)) == 0, "another worker has it"
    assert made.settle(1, keys(1, 7)) == 1
    assert made.settle(1, keys(1)) == 0
    assert made.settle(3, keys(1)) == 0, "there is no such worker"


def test_a_dead_workers_jobs_are_given_back_and_no_more_are_assigned_to_it() -> None:
    made = book(1, 2)
    made.assign(jobs(1, 2, 3, 4))
    made.settle(1, keys(1))
    assert made.remove_worker(1) == jobs(3)
    assert made.assign(jobs(5)) == ({2: jobs(5)}, [])
    assert sorted(made.jobs(2)) == keys(2, 4, 5)
    assert list(made.jobs(1)) == []


def test_its_successor_begins_with_nothing() -> None:
    made = book(1)
    made.assign(jobs(1))
    made.message(1, jobs(1)[0], 0.0)
    made.remove_worker(1)
    made.add_worker(1)
    assert (len(made), made.unconfirmed(1), made.overdue(1, 99.0)) == (0, [], [])


def test_a_message_carries_the_job_and_is_unconfirmed() -> None:
    made, (job,) = book(1), jobs(1)
    made.assign([job])
    assert made.unconfirmed(1) == []
    assert made.message(1, job, 0.0) == pack(job)
    assert made.unconfirmed(1) == [job.key]


@pytest.mark.parametrize("reason", ["too large", "too many unconfirmed", "settled", "no worker"])
def test_a_job_that_may_not_go_over_nats_goes_as_a_call(reason: str) -> None:
    made, worker = book(1), 1
    before = jobs(*range(2, 2 + MAX_UNCONFIRMED))
    job = AgentJob("key-1", b"x" * (MAX_JOB_BYTES if reason == "too large" else 1))
    made.assign([job, *before])
    if reason == "too many unconfirmed":
        assert all(made.message(1, other, 0.0) for other in before)
    elif reason == "settled":
        made.settle(1, [job.key])
    elif reason == "no worker":
        worker = 2
    unconfirmed = made.unconfirmed(1)
    assert made.message(worker, job, 0.0) is None
    assert made.unconfirmed(1) == unconfirmed


def test_a_message_that_could_not_be_sent_is_not_asked_for() -> None:
    made, (job,) = book(1), jobs(1)
    made.assign([job])
    made.message(1, job, 0.0)
    made.not_sent(1, job.key)
    made.not_sent(2, job.key)
    assert made.overdue(1, 99.0) == []
    assert len(made) == 1, "the job goes as a call"


def test_a_worker_is_asked_for_what_was_sent_a_while_ago() -> None:
    made, (early, late) = book(1), jobs(1, 2)
    made.assign([early, late])
    made.message(1, early, 10.0)
    made.message(1, late, 10.5)
    assert made.overdue(1, 10.0 + RESEND_SECONDS / 2) == []
    assert made.overdue(1, 10.0 + RESEND_SECONDS) == [early.key]
    assert made.overdue(2, 99.0) == []


def test_what_never_arrived_is_sent_again_and_the_rest_is_confirmed() -> None:
    made = book(1)
    made.assign(jobs(1, 2, 3))
    for job in jobs(1, 2, 3):
        made.message(1, job, 0.0)
    assert made.confirm(1, keys(1, 2), missing=keys(2)) == jobs(2)
    assert made.unconfirmed(1) == keys(3)


def test_what_was_settled_while_the_worker_was_asked_is_not_sent_again() -> None:
    made = book(1)
    made.assign(jobs(1))
    made.message(1, jobs(1)[0], 0.0)
    made.settle(1, keys(1))
    assert made.confirm(1, keys(1), missing=keys(1)) == []


def test_what_was_given_back_while_the_worker_was_asked_is_not_sent_again() -> None:
    made = book(1)
    made.assign(jobs(1))
    made.message(1, jobs(1)[0], 0.0)
    made.remove_worker(1)
    assert made.confirm(1, keys(1), missing=keys(1)) == []
    made.add_worker(1)
    assert made.confirm(1, keys(1), missing=keys(1)) == []


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("assign"), st.integers(1, 30)),
            st.tuples(st.just("settle"), st.integers(1, 3)),
            st.tuples(st.just("die"), st.integers(1, 3)),
        ),
        max_size=60,
    )
)
def test_every_job_is_with_one_worker_or_settled_or_given_back(steps: list[tuple[str, int]]) -> None:
    made, here, taken = book(1, 2, 3), {1, 2, 3}, 0
    for step, number in steps:
        if step == "assign":
            shares, unplaced = made.assign(jobs(number))
            taken += sum(map(len, shares.values()))
            assert not unplaced or not here
        elif number not in here:
            made.add_worker(number)
            here.add(number)
        elif step == "settle":
            taken -= made.settle(number, list(made.jobs(number))[:2])
        else:
            taken -= len(made.remove_worker(number))
            here.remove(number)
        held = [key for worker in here for key in made.jobs(worker)]
        assert len(held) == len(set(held)) == len(made) == taken
