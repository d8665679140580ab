"""Questions are read by their place in REQUESTS, as far as they are there."""

from parley.broker.core.tally import Tally
from tests.harness import ModelServer, Running


async def test_each_question_that_is_kept_is_read(local_service: Running, model: ModelServer) -> None:
    assert model is not None
    names = [
        (await local_service.client.deliberate(f"Why {place}?", agents=1)).task_id for place in range(20)
    ]
    tallies = [tally for tally in await local_service.client.tallies() if tally.task_id in names]
    gone = tallies[0].model_copy(update={"task_id": "gone", "request_seq": 10**9})
    questions = await local_service.client.questions([*tallies, gone])
    assert questions == {name: f"Why {place}?" for place, name in enumerate(names)}
    assert await local_service.client.questions([]) == {}


async def test_a_request_that_is_none_has_no_question(local_service: Running) -> None:
    seqs = [await local_service.publish(body) for body in (b"\xff", b"[]", b"{}", b'{"task_description": 5}')]
    tallies = [
        Tally(task_id=f"d-{seq}", state="rejected", request_seq=seq, accepted_at=0, deadline=0)
        for seq in seqs
    ]
    assert await local_service.client.questions(tallies) == {}
