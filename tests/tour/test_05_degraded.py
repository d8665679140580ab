"""One agent fails. The others' answers are still an ending, marked `degraded`, with the reason of the failure."""

from parley.broker.core.messages import DeliberationCompleted, ErrorType
from tests.harness import ModelServer, Running


async def test_one_agent_fails_and_the_ending_says_so(on: Running, model: ModelServer) -> None:
    await model.behave(script=["400"])  # the first call gets HTTP 400, the others are answered
    ending = await on.client.deliberate("x")
    assert isinstance(ending, DeliberationCompleted)
    assert ending.degraded
    assert (ending.successful_responses, ending.failed_responses) == (2, 1)
    (failure,) = ending.failed_agents
    assert failure.error_type is ErrorType.BAD_REQUEST
    assert "simulated fault" in failure.error
    assert ending.missing_agents == ()
