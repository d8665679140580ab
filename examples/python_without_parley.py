"""Three agents, asked with nats-py alone: what docs/contract.md says, in one page.

NATS_URL=nats://TOKEN@127.0.0.1:4222 python examples/python_without_parley.py ["question"]
"""

import asyncio
import json
import os
import sys
from typing import Any

import nats
from nats.aio.client import Client

DEADLINE_SECONDS = 60
QUESTION = "Which is safer, a rename or a new column, and why?"


async def main(question: str) -> int:
    nc = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
    try:
        inbox = nc.new_inbox()
        endings = await nc.subscribe(inbox)
        request = {"task_description": question, "num_agents": 3, "timeout_seconds": DEADLINE_SECONDS}
        stored = await nc.jetstream().publish(
            "deliberation.requested", json.dumps(request).encode(), headers={"Parley-Reply-To": inbox}
        )
        # The service gives a request without a `task_id` this name.
        task_id = f"d-{stored.seq}"
        print("asked", task_id)
        try:
            ending = json.loads((await endings.next_msg(timeout=DEADLINE_SECONDS + 10)).data)
        except TimeoutError:
            # The inbox gets an ending at most once. It is lost if this connection was, just then.
            question_of_status = json.dumps({"task_id": task_id}).encode()
            ending = json.loads((await nc.request("deliberation.get", question_of_status, timeout=10)).data)
        print(ending["status"].lower(), ending.get("error", ""))
        for result in await results_of(nc, ending):
            print(f"{result['agent_id']}: {result['proposal']['content']}")
        return 0 if ending["status"].lower() == "completed" else 1
    finally:
        await nc.close()


async def results_of(nc: Client, ending: dict[str, Any]) -> list[dict[str, Any]]:
    """The answers. Those that are too large for a message are in an object store."""
    place = ending.get("results_ref")
    if place is None:
        found = ending["results"]
    else:
        store = await nc.jetstream().object_store(place["bucket"])
        found = json.loads((await store.get(place["name"])).data or b"[]")
    return list(found)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else QUESTION)))
