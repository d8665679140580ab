"""Three agents, asked with OpenAI's own client: the gateway offers a panel as if it were a model.

pip install openai
GATEWAY_URL=http://127.0.0.1:8470 python examples/openai_client.py ["question"]
"""

import json
import os
import sys

from openai import OpenAI

QUESTION = "Which is safer, a rename or a new column, and why?"


def main(question: str) -> None:
    client = OpenAI(
        base_url=os.environ.get("GATEWAY_URL", "http://127.0.0.1:8470") + "/v1",
        # The token of a tenant, where the gateway has any (docs/gateway.md).
        api_key=os.environ.get("GATEWAY_TOKEN", "none"),
    )
    # Three developers answer, and three judges choose. The client waits until that is done.
    done = client.chat.completions.create(
        model="parley/dev-3",
        messages=[{"role": "user", "content": question}],
        extra_body={"parley": {"timeout_seconds": 60}},
    )
    # What OpenAI has no field for: the deliberation's id, the winner, what is missing.
    panel = (done.model_extra or {})["parley"]
    print("asked", panel["task_id"])
    print("chosen", panel["winner_id"])
    print(done.choices[0].message.content)
    # The answers that were not chosen are the gateway's own resource.
    status = client.get(f"/deliberations/{panel['task_id']}", cast_to=str)
    for result in json.loads(status)["ending"]["results"]:
        print(f"{result['agent_id']}: {result['proposal']['content']}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else QUESTION)
