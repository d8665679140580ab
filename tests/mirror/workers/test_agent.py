"""From one agent's request to its outcome. How the balancer gets an answer is in model/test_endpoint_failover.py."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from parley.broker.core.messages import (
    AgentCompleted,
    AgentFailed,
    AgentOutcome,
    AgentRequested,
    AnswerKey,
    Ballot,
    ErrorType,
    ToolCall,
    Usage,
)
from parley.broker.core.phase_plan import PhaseKind, Select
from parley.broker.core.timestamps import format_timestamp
from parley.workers.agent import Agent
from parley.workers.judge_prompt import MAX_BALLOT_TOKENS, ballot_format
from parley.workers.model.call_policy import RetryPolicy
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.endpoint_failover import FailoverClient
from parley.workers.model.model_client import ChatRequest
from parley.workers.model.model_error import ModelError
from parley.workers.model.responses import Completion
from parley.workers.model.served_models import ServedModels, Serving
from tests.mirror.workers import work
from tests.mirror.workers.model.scripted import DONE, START, THREE, Clock, ScriptedModel, trouble
from tests.mirror.workers.test_judge_prompt import answer

DEADLINE_SECONDS = 60.0


class Bench:
    """An agent over a scripted model."""

    def __init__(
        self, *script: Completion | ModelError, attempts: int = 6, call_seconds: float = 0.0
    ) -> None:
        self.clock = Clock()
        self.model = ScriptedModel(self.clock, script, call_seconds)
        retry, now = RetryPolicy(attempts), self.clock.now
        balancer = FailoverClient(
            self.model, THREE[:1], retry, now=now, sleep=self.clock.sleep, jitter=lambda: 1.0
        )
        self.agent = Agent(balancer, "some-model", now)

    async def ask(
        self, request: AgentRequested | None = None, traceparent: str | None = None
    ) -> AgentOutcome:
        return await self.agent.answer(request or timed(), traceparent)


def timed(**fields: Any) -> AgentRequested:
    """Requested two seconds before the clock starts, due a minute after."""
    times = {
        "requested_at": format_timestamp(START - 2),
        "deadline": format_timestamp(START + DEADLINE_SECONDS),
    }
    return work(2, **{**times, **fields})


def failure(outcome: AgentOutcome) -> AgentFailed:
    assert isinstance(outcome, AgentFailed), outcome
    return outcome


def success(outcome: AgentOutcome) -> AgentCompleted:
    assert isinstance(outcome, AgentCompleted), outcome
    return outcome


async def test_an_answer_becomes_a_completed_outcome_with_every_field_of_the_contract() -> None:
    bench = Bench(DONE, call_seconds=1.5)
    request = timed(diversity=True, seed=10, metadata={"k": "v"}, num_agents=4)
    outcome = success(await bench.ask(request))
    assert (outcome.task_id, outcome.agent_id, outcome.role) == (request.task_id, "agent-dev-002", "DEV")
    assert (outcome.attempt, outcome.queue_ms, outcome.duration_ms) == (1, 2_000, 1_500)
    assert outcome.timestamp == format_timestamp(START + 1.5)
    assert (outcome.proposal.content, outcome.proposal.author_id) == ("an answer", "agent-dev-002")
    assert (outcome.proposal.model, outcome.proposal.tokens) == ("some-model", 2)
    assert (outcome.model, outcome.finish_reason, outcome.usage) == ("some-model", "stop", DONE.usage)
    assert (outcome.diversity, outcome.persona, outcome.seed, outcome.num_agents) == (True, "sceptic", 11, 4)
    assert outcome.proposal.temperature == bench.model.requests[0].temperature == 0.5
    assert outcome.metadata == {"k": "v"}


async def test_the_callers_sampling_and_trace_reach_the_model() -> None:
    bench = Bench(DONE)
    await bench.ask(
        timed(model="theirs", temperature=0.1, max_tokens=7, seed=3, stop=("END",)), traceparent="00-a-b-01"
    )
    (sent,) = bench.model.requests
    assert (sent.model, sent.temperature, sent.max_tokens, sent.seed) == ("theirs", 0.1, 7, 4)
    assert (sent.stop, sent.traceparent) == (("END",), "00-a-b-01")


async def test_a_request_without_a_model_gets_the_configured_one_and_the_server_chooses_the_rest() -> None:
    bench = Bench(DONE)
    await bench.ask()
    (sent,) = bench.model.requests
    assert (sent.model, sent.max_tokens, sent.seed, sent.stop) == ("some-model", None, None, None)
    assert (sent.temperature, sent.chosen) == (None, frozenset())


async def test_what_parley_chose_for_diversity_may_be_left_out_and_what_the_caller_asked_for_may_not() -> (
    None
):
    bench = Bench(DONE)
    await bench.ask(timed(diversity=True, temperature=0.3))
    (sent,) = bench.model.requests
    assert (sent.temperature is None, sent.seed is None, sent.chosen) == (False, False, frozenset({"seed"}))


async def test_an_outcome_counts_its_attempts_and_the_time_between_them() -> None:
    outcome = success(await Bench(trouble(), trouble(), DONE).ask())
    assert (outcome.attempt, outcome.duration_ms) == (3, 750)
    bench = Bench(trouble(ErrorType.RATE_LIMITED), attempts=4)
    failed = failure(await bench.ask())
    assert (failed.error_type, failed.error) == (ErrorType.RATE_LIMITED, "rate_limited it is")
    assert failed.attempt == len(bench.model.calls) == 4
    assert failed.duration_ms == round(sum(bench.clock.slept) * 1000)


async def test_an_error_without_text_still_says_something() -> None:
    outcome = failure(await Bench(ModelError(ErrorType.BAD_REQUEST, "")).ask())
    assert outcome.error == "bad_request"


async def test_a_cancelled_agent_raises_and_makes_no_outcome() -> None:
    class Silent:
        """A model that never answers."""

        async def complete(self, endpoint: Endpoint, request: ChatRequest, *, seconds: float) -> Completion:
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

    task = asyncio.create_task(Agent(FailoverClient(Silent(), THREE), "m", Clock().now).answer(work()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# ── judges ────────────────────────────────────────────────────────────────────────────────────────────────────────


def ballot_of(words: str) -> Completion:
    return Completion(words, "stop", "m", Usage())


async def judged(bench: Bench, **fields: Any) -> AgentOutcome:
    request = timed(phase=PhaseKind.JUDGE, **fields)
    return await bench.agent.judge(request, [answer(1), answer(2)])


async def test_a_judge_reports_its_ballot() -> None:
    bench = Bench(ballot_of('{"notes": "so", "ranking": "BA"}'))
    outcome = success(await judged(bench, max_tokens=7, stop="."))
    assert outcome.ballot == Ballot(ranking="BA", notes="so")
    assert (outcome.phase, outcome.attempt, outcome.key) == (PhaseKind.JUDGE, 1, None)
    (asked,) = bench.model.requests
    assert asked.response_format == ballot_format(2)
    assert (asked.max_tokens, asked.stop) == (MAX_BALLOT_TOKENS, None)  # those of the request are for answers


async def test_words_without_a_ranking_are_asked_for_once_more_with_another_seed() -> None:
    bench = Bench(ballot_of("B is better"), ballot_of("B > A"))
    outcome = success(await judged(bench, seed=7))
    assert outcome.ballot == Ballot(ranking="BA", repaired=True)
    assert outcome.attempt == 2
    first, second = bench.model.requests
    assert first.messages == second.messages
    assert first.seed != second.seed


async def test_no_ranking_twice_is_an_invalid_ballot() -> None:
    bench = Bench(ballot_of("B"), Completion("A or", "length", "m", Usage()))
    outcome = failure(await judged(bench))
    assert (outcome.error_type, outcome.attempt, outcome.phase) == (
        ErrorType.INVALID_BALLOT,
        2,
        PhaseKind.JUDGE,
    )
    assert outcome.error == "asked twice, the judge gave no whole ranking of the answers within 4096 tokens"


async def test_a_judge_that_thinks_for_too_long_is_asked_once_more_with_more_room() -> None:
    thought = ModelError(ErrorType.EMPTY_ANSWER, "all its tokens went into thinking")
    bench = Bench(thought, ballot_of("B > A"))
    outcome = success(await judged(bench))
    assert (outcome.ballot, outcome.attempt) == (Ballot(ranking="BA", repaired=True), 2)
    assert [asked.max_tokens for asked in bench.model.requests] == [1_024, 4_096]
    lost = failure(await judged(Bench(thought)))
    assert lost.error_type is ErrorType.INVALID_BALLOT
    assert (
        lost.error
        == "asked twice, the judge gave no words within 4096 tokens (all its tokens went into thinking)"
    )


async def test_both_tries_of_a_judge_are_counted() -> None:
    used = Usage(prompt_tokens=20_000, completion_tokens=1_024, total_tokens=21_024, cached_tokens=9)
    bad = Completion("B is better", "stop", "m", used)
    good = Completion("B > A", "stop", "m", Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3))
    both = success(await judged(Bench(bad, good))).usage
    assert both == Usage(prompt_tokens=20_001, completion_tokens=1_026, total_tokens=21_027, cached_tokens=9)
    assert failure(await judged(Bench(bad, bad))).usage == used.plus(used)


async def test_a_filtered_ballot_is_none_and_says_what_the_filter_said() -> None:
    filtered = Completion("I cannot help.\nB > A", "content_filter", "m", Usage())
    outcome = failure(
        await judged(Bench(filtered, ModelError(ErrorType.EMPTY_ANSWER, "a content filter held it back")))
    )
    assert "a content filter held it back" in outcome.error


async def test_answers_that_are_too_long_for_a_judges_model_are_shown_shorter() -> None:
    too_long = ModelError(ErrorType.CONTEXT_TOO_LONG, "at most 8192 tokens")
    bench = Bench(too_long, too_long, ballot_of("B > A"))
    request = timed(phase=PhaseKind.JUDGE)
    long = [answer(number, "\u6587" * 12_000) for number in (1, 2)]
    outcome = success(await bench.agent.judge(request, long))
    assert outcome.ballot == Ballot(ranking="BA", repaired=True, shortened="AB")
    assert outcome.attempt == 3
    shown = [asked.messages[-1]["content"].count("\u6587") for asked in bench.model.requests]
    assert shown == [24_000, 6_000, 1_500]
    assert [asked.max_tokens for asked in bench.model.requests] == [MAX_BALLOT_TOKENS] * 3
    short = failure(await judged(Bench(too_long)))
    assert (short.error_type, short.attempt) == (ErrorType.CONTEXT_TOO_LONG, 1)


async def test_a_judge_whose_call_fails_says_so() -> None:
    outcome = failure(await judged(Bench(ModelError(ErrorType.BAD_REQUEST, "no"))))
    assert (outcome.error_type, outcome.attempt) == (ErrorType.BAD_REQUEST, 1)


async def test_an_answer_has_a_digest_only_where_one_is_chosen() -> None:
    assert success(await Bench(DONE).ask()).key is None
    assert success(await Bench(DONE).ask(timed(select=Select.JUDGE))).key is not None
    voting = timed(select=Select.VOTE, answer_key=AnswerKey(last="number"))
    read = success(await Bench(ballot_of("it is 4.0")).ask(voting))
    assert (read.key is not None, read.final_answer) == (True, "4")
    unread = success(await Bench(ballot_of("none")).ask(voting))
    assert (unread.key, unread.final_answer) == (None, None)


async def test_refusals_and_halves_are_no_votes() -> None:
    voting = timed(select=Select.VOTE, answer_key=AnswerKey(last="line"))
    for half in (
        words("I can't help with that.", refused=True),
        words("I can't help with that.", finish_reason="content_filter"),
        words("The answer is", finish_reason="length"),
    ):
        outcome = success(await Bench(half).ask(voting))
        assert (outcome.key, outcome.final_answer) == (None, None)


class Listed(ServedModels):
    """Servers that have these models, of which nobody needs to be asked."""

    def __init__(self, *models: str) -> None:
        self.models = models

    async def find(self, model: str) -> Serving:
        return Serving(THREE[:1] if model in self.models else (), ())

    def known(self, model: str) -> Serving | None:
        return Serving(THREE[:1] if model in self.models else (), ())

    def others(self) -> str:
        return "http://a has some-model"


@pytest.mark.parametrize(
    ("judges", "is_asked"),
    [
        ({"judge_model": "nobody"}, False),
        ({"judge_models": ("nobody", "nor-this")}, False),
        ({"judge_models": ("nobody", "some-model")}, True),
        ({"judge_model": "some-model"}, True),
        ({}, True),
    ],
    ids=str,
)
async def test_no_answer_is_paid_for_that_nobody_could_judge(judges: dict[str, Any], is_asked: bool) -> None:
    bench = Bench(DONE)
    bench.agent.balancer.served = Listed("some-model")
    outcome = await bench.ask(timed(select=Select.JUDGE, **judges))
    assert len(bench.model.requests) == is_asked
    if not is_asked:
        lost = failure(outcome)
        assert (lost.error_type, lost.attempt) == (ErrorType.MODEL_NOT_FOUND, 0)
        named = " or ".join(judges.get("judge_models", ["nobody"]))
        assert (
            lost.error == f"no server has {named}, which judges are to be asked of: http://a has some-model"
        )


FORM = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object", "required": ["n"]}}}


def words(content: str, **fields: Any) -> Completion:
    return replace(DONE, content=content, **fields)


async def test_an_answer_in_another_form_is_asked_for_once_more_with_another_seed() -> None:
    bench = Bench(words("no"), words('```json\n{"n": 1}\n```'))
    outcome = success(
        await bench.ask(
            timed(response_format=FORM, seed=5, answer_key=AnswerKey(json_pointer="/n"), select=Select.VOTE)
        )
    )
    assert outcome.proposal.content == '{"n": 1}'
    assert outcome.final_answer == "1"
    assert outcome.attempt == 2
    assert outcome.usage.completion_tokens == 2 * DONE.usage.completion_tokens
    asked = bench.model.requests
    assert [request.response_format for request in asked] == [FORM, FORM]
    assert asked[0].messages == asked[1].messages
    assert asked[0].seed == 6 != asked[1].seed
    assert outcome.seed == asked[1].seed


async def test_two_answers_in_another_form_fail_by_name() -> None:
    lost = failure(
        await Bench(words("no"), words('{"n": ', finish_reason="length")).ask(timed(response_format=FORM))
    )
    assert lost.error_type is ErrorType.INVALID_OUTPUT
    assert lost.error.startswith("asked twice, the model's answer is no JSON: ")
    assert lost.error.endswith(", and cut off")
    assert lost.attempt == 2
    assert lost.usage.completion_tokens == 2 * DONE.usage.completion_tokens


async def test_a_schema_that_cannot_be_used_is_told_at_the_first_answer() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"minimum": "x"}}}
    lost = failure(await Bench(words("1")).ask(timed(response_format=form)))
    assert (lost.error_type, lost.attempt) == (ErrorType.BAD_REQUEST, 1)
    assert lost.error.startswith("response_format: the schema cannot be used (")


async def test_a_refusal_is_not_asked_for_again() -> None:
    outcome = success(await Bench(words("I will not.", refused=True)).ask(timed(response_format=FORM)))
    assert outcome.refused
    assert outcome.proposal.content == "I will not."


async def test_what_the_second_try_meets_counts_both() -> None:
    error = trouble(ErrorType.BAD_REQUEST)
    lost = failure(await Bench(words("no"), error).ask(timed(response_format=FORM)))
    assert (lost.error_type, lost.attempt) == (ErrorType.BAD_REQUEST, 2)
    assert lost.usage.completion_tokens == DONE.usage.completion_tokens


async def test_a_call_of_a_tool_is_an_outcome_of_its_own() -> None:
    call = ToolCall(id="1", name="weather", arguments="{}")
    error = ModelError(ErrorType.TOOL_CALL, "a tool", usage=DONE.usage, tool_calls=[call])
    lost = failure(await Bench(error).ask())
    assert (lost.error_type, lost.tool_calls, lost.usage) == (ErrorType.TOOL_CALL, (call,), DONE.usage)


# ── a later round ─────────────────────────────────────────────────────────────────────────────────────────────────


async def revised(bench: Bench, **fields: Any) -> AgentOutcome:
    request = timed(phase=PhaseKind.REVISE, round=2, select=Select.JUDGE, **fields)
    return await bench.agent.revise(request, [answer(1, "one"), answer(2, "two"), answer(3, "three")])


async def test_a_better_answer_is_one_like_the_first() -> None:
    outcome = success(await revised(Bench(words("better"))))
    assert (outcome.phase, outcome.round, outcome.proposal.content) == (PhaseKind.REVISE, 2, "better")
    assert outcome.kept is None
    assert outcome.key == success(await Bench(words("better")).ask(timed(select=Select.JUDGE))).key


async def test_an_answer_that_is_kept_is_named_by_its_label() -> None:
    outcome = success(await revised(Bench(words("KEEP B"))))
    assert (outcome.kept, outcome.key) == ("B", None)


async def test_a_revision_that_is_cut_off_is_none() -> None:
    lost = failure(await revised(Bench(words("bett", finish_reason="length"))))
    assert (lost.error_type, lost.error) == (
        ErrorType.MALFORMED_ANSWER, "the text of agent-dev-002 was cut off",
    )  # fmt: skip


async def test_a_revision_keeps_to_the_form_that_was_asked_for() -> None:
    outcome = success(await revised(Bench(words("KEEP B"), words('{"n": 1}')), response_format=FORM))
    assert (outcome.kept, outcome.proposal.content, outcome.attempt) == (None, '{"n": 1}', 2)
