"""What a real vLLM refuses: the ending has its own words, and there is no retry."""

from parley.broker.core.messages import DeliberationFailed, ErrorType
from tests.live.service import Front
from tests.rig.vllm.server import MAX_TOKENS, MODEL, Vllm


async def test_a_prompt_that_is_too_long_fails_at_once_in_the_servers_words(on: Front, shared: Vllm) -> None:
    asked = len(shared.said("POST /v1/chat/completions"))
    ending = await on.client.deliberate("word " * 2 * MAX_TOKENS, agents=2, timeout_seconds=60)
    assert isinstance(ending, DeliberationFailed)
    assert ending.status == "failed"
    failed = await on.failed(ending)
    assert {outcome.error_type for outcome in failed} == {ErrorType.CONTEXT_TOO_LONG}
    assert all(
        outcome.error.startswith("HTTP 400") and str(MAX_TOKENS) in outcome.error for outcome in failed
    )
    assert {outcome.attempt for outcome in failed} == {1}
    assert len(shared.said("POST /v1/chat/completions")) - asked == 2
    assert ending.duration_ms < 5_000


async def test_more_tokens_than_fit_are_a_bad_request(on: Front, shared: Vllm) -> None:
    asked = len(shared.said("POST /v1/chat/completions"))
    failed = await on.failed(await on.client.deliberate("x", agents=2, max_tokens=MAX_TOKENS + 1))
    assert {(outcome.error_type, outcome.attempt) for outcome in failed} == {(ErrorType.BAD_REQUEST, 1)}
    assert all("max_tokens" in outcome.error and str(MAX_TOKENS) in outcome.error for outcome in failed)
    assert len(shared.said("POST /v1/chat/completions")) - asked == 2


async def test_tokens_that_the_prompt_leaves_no_room_for_are_cut_and_marked(on: Front) -> None:
    # Older vLLMs refused this; this one gives what fits. The answer takes about 5 s.
    (outcome,) = await on.completed(await on.client.deliberate("x", agents=1, max_tokens=MAX_TOKENS))
    assert outcome.finish_reason == "length"
    assert outcome.usage.total_tokens == MAX_TOKENS


async def test_an_unknown_model_is_named_before_anything_is_asked(on: Front, shared: Vllm) -> None:
    asked = len(shared.said("POST /v1/chat/completions"))
    failed = await on.failed(await on.client.deliberate("x", agents=2, model="nobody"))
    assert {outcome.error_type for outcome in failed} == {ErrorType.MODEL_NOT_FOUND}
    assert {outcome.error for outcome in failed} == {f"no server has nobody: {shared.url} has {MODEL}"}
    assert {outcome.attempt for outcome in failed} == {0}
    assert len(shared.said("POST /v1/chat/completions")) - asked == 1  # for one token, which outweighs a list
