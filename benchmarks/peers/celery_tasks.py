"""Celery's tasks, for its workers. BENCH_REDIS_URL and BENCH_MODEL_URL are the addresses of Redis and the model."""

import os

from celery import Celery

from benchmarks.peers.sync_model import Model

_url = os.environ["BENCH_REDIS_URL"]
_model = Model(os.environ["BENCH_MODEL_URL"])
app = Celery("bench", broker=f"{_url}/0", backend=f"{_url}/1")


@app.task(name="bench.ask")
def ask(_question: str) -> str:
    return _model.answer()


@app.task(name="bench.combine")
def combine(answers: list[str]) -> list[str]:
    return answers
