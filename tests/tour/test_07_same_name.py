"""The task_id is the identity: the same request three times is one deliberation, with one ending and three model
calls."""

from tests.harness import ModelServer, Running, fresh


async def test_the_same_request_twice_is_one_deliberation(on: Running, model: ModelServer) -> None:
    before = (await model.seen())["requests"]
    request = {"task_description": "x", "task_id": fresh()}
    await on.publish(request)
    await on.publish(request)
    await on.publish(request, headers={"Nats-Msg-Id": fresh()})
    ending = await on.ending_of(request["task_id"])
    assert ending["status"] == "completed"
    later = await on.client.deliberate("another one, after all three copies", task_id=fresh())
    assert later.status == "completed"
    assert len(await on.endings_of(request["task_id"])) == 1
    assert (await model.seen())["requests"] == before + 6
