"""Parley: a task-queue bridge for multi-agent deliberation.

import parley

async with parley.connect("nats://127.0.0.1:4222") as client:
    ending = await client.deliberate("Write a factorial function", agents=3)
"""

from parley.broker.core.errors import BrokerUnavailable, InvalidMessage, ParleyError, Unavailable
from parley.broker.core.messages import DeliberationCompleted, DeliberationFailed, DeliberationStatus, Ending
from parley.broker.jetstream.deadletters import CannotReplay, DeadLetter
from parley.client import Client, NoEnding, NoService, Submitted, connect

__all__ = [
    "BrokerUnavailable",
    "CannotReplay",
    "Client",
    "DeadLetter",
    "DeliberationCompleted",
    "DeliberationFailed",
    "DeliberationStatus",
    "Ending",
    "InvalidMessage",
    "NoEnding",
    "NoService",
    "ParleyError",
    "Submitted",
    "Unavailable",
    "connect",
]
