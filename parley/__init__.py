"""Parley: a task-queue bridge for multi-agent deliberation.

import parley

async with parley.connect("nats://127.0.0.1:4222") as client:
    ending = await client.deliberate("Write a factorial function", agents=3)
"""

from broker.deadletters import CannotReplay, DeadLetter
from broker.errors import BadMessage, BrokerUnavailable, ParleyError, Unavailable
from broker.messages import DeliberationCompleted, DeliberationFailed, DeliberationStatus, Ending
from parley.client import Client, NoEnding, NoService, Submitted, connect

__all__ = [
    "BadMessage",
    "BrokerUnavailable",
    "CannotReplay",
    "Client",
    "DeadLetter",
    "DeliberationCompleted",
    "DeliberationFailed",
    "DeliberationStatus",
    "Ending",
    "NoEnding",
    "NoService",
    "ParleyError",
    "Submitted",
    "Unavailable",
    "connect",
]
