"""A cancel ends a deliberation at once, and closes its calls at the model server."""

from tests.harness import ModelServer, Running, until


async def test_a_cancel_ends_it_and_closes_its_calls(on: Running, model: ModelServer) -> None:
    await model.behave(faults={"hang": 1.0})  # no call is ever answered
    submitted = await on.client.submit("x", timeout_seconds=60)

    async def all_called() -> bool:
        return bool((await model.seen())["running"] == 3)

    await until(all_called, "three calls are at the model server")
    await on.client.cancel(submitted.task_id, "changed my mind")
    ending = await on.client.ending(submitted)
    assert ending.status == "cancelled"
    assert ending.error == "cancelled: changed my mind"
    await model.idle()
    status = await on.client.status(submitted.task_id)
    assert (status.status, status.error_message) == ("FAILED", "cancelled: changed my mind")
