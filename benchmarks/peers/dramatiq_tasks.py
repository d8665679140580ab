"""Dramatiq's actor, for its workers. BENCH_REDIS_URL and BENCH_MODEL_URL are the addresses of Redis and the model."""

import os

import dramatiq

from benchmarks.peers.dramatiq_group import broker_of
from benchmarks.peers.sync_model import Model

_model = Model(os.environ["BENCH_MODEL_URL"])
dramatiq.set_broker(broker_of(os.environ["BENCH_REDIS_URL"]))


@dramatiq.actor(actor_name="ask", store_results=True)
def ask(_question: str) -> str:
    return _model.answer()
