"""A Celery chord, and what it becomes. Before:

    @app.task(autoretry_for=(APIError,), retry_backoff=True, max_retries=5, time_limit=60)
    def ask_model(question, seed):
        done = openai.chat.completions.create(model=MODEL, messages=[...], seed=seed, timeout=50)
        return done.choices[0].message.content

    @app.task
    def show(answers):
        for answer in answers:
            print(answer)

    # One agent that fails fails the chord, and the two good answers are lost with it. A worker that is killed in the
    # middle leaves a chord that never ends, unless acks_late is set; then `show` may run twice.
    chord(ask_model.s(question, seed) for seed in range(3))(show.s()).get(timeout=60)

After: no tasks, no retries and no callback of your own. The service calls the model, and each question ends once.

NATS_URL=nats://TOKEN@127.0.0.1:4222 python examples/celery_migration.py ["question"]
"""

import sys

import parley.sync

QUESTION = "Which is safer, a rename or a new column, and why?"


def main(question: str) -> int:
    # NATS_URL, or the `parley up` that runs here. One client serves all threads; connect after a fork, not before.
    with parley.sync.connect() as client:
        # `timeout_seconds` is the deadline, kept by the service: it counts while this program is away, too.
        # `min_responses` is how many answers are enough; a chord's "all or an error" would be 3.
        job = client.submit(question, agents=3, timeout_seconds=60, min_responses=2)
        # As AsyncResult's id: `client.job(task_id)` finds it again, in any process.
        print("asked", job.task_id)
        ending = job.ending()
    print(ending.status)
    for result in ending.results:
        print(f"{result.agent_id}: {result.proposal.content}")
    for failed in ending.failed_agents:
        print(f"{failed.agent_id} failed: {failed.error}")
    for agent_id in ending.missing_agents:
        print(f"{agent_id} did not report in time")
    return 0 if ending.status == "completed" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else QUESTION))
