"""The peers by name."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from importlib import import_module

from benchmarks.systems import System

PEERS: Mapping[str, str] = {
    "celery": "celery_chord",
    "taskiq": "taskiq_nats",
    "dramatiq": "dramatiq_group",
    "actor": "actor_each",
}


def running(name: str, model_url: str) -> AbstractAsyncContextManager[System]:
    """The peer from its start to its end. Entering raises ModuleNotFoundError or Skipped if something is not installed here."""
    peer: AbstractAsyncContextManager[System] = import_module(f"benchmarks.peers.{PEERS[name]}").running(
        model_url
    )
    return peer
