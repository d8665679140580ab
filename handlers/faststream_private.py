"""All that Parley needs of FastStream beyond its documented API. FastStream starts and stops our pull subscribers.

FastStream's own pull subscribers wait for a whole batch before they fetch again (one slow message stalls the others),
or fetch up to twice `max_workers` (faststream#2563; PR #3091 would bound that), or wait their full timeout to fill a
batch. `PullSubscriber` does the pulling instead, and its messages pass by FastStream's `consume`: parsing, scoping
and injecting around handlers that need none of it took a tenth of the service's time.

Private names of FastStream 0.7 used here, and nowhere else:

- `NatsBroker._connect`, `_connection_kwargs` and `config.connect`: otherwise the broker opens nats-py's connection.
- `LogicSubscriber._create_subscription`: FastStream's `start` calls it to subscribe.
- `_outer_config.graceful_timeout`: the seconds that `stop` may wait, as the broker was told.
"""

from typing import Any

from faststream import AckPolicy
from faststream.nats import JStream, NatsBroker, PullSub
from nats.aio.client import Client

from parley.broker.jetstream.nats_access import PLAIN, NatsAccess
from parley.broker.jetstream.nats_client import NatsClient
from parley.handlers.pull import PullSubscriber


class ServiceBroker(NatsBroker):
    """FastStream's broker on our client, which survives malformed headers."""

    def __init__(self, access: NatsAccess = PLAIN, **options: Any) -> None:
        super().__init__(**options)
        # How its connection proves itself to NATS.
        self._access = access

    async def _connect(self) -> Client:
        connection = NatsClient(self._access)
        await connection.connect(**self._connection_kwargs)
        self.config.connect(connection)
        return connection


def attach(broker: NatsBroker, puller: PullSubscriber, *, payload: Any, title: str, description: str) -> None:
    """Have `broker` start and stop `puller`, and show it in the AsyncAPI document. `payload`: a type of message."""
    durable = puller.durable
    # Any: its class is private, and two of its methods are replaced below.
    subscriber: Any = broker.subscriber(
        durable.filter,
        durable=durable.name,
        # Not declared: provisioning is ours, and FastStream would overwrite the live stream.
        stream=JStream(name=durable.stream, declare=False),
        pull_sub=PullSub(batch_size=puller.window.batch, batch=True),
        # FastStream's default would terminate a message on an unhandled exception. We settle each message ourselves.
        ack_policy=AckPolicy.MANUAL,
        no_reply=True,
        title=title,
        description=description,
    )
    subscriber(_documented(payload))
    stop = subscriber.stop

    async def start_puller() -> None:
        assert isinstance(subscriber.connection, NatsClient), "on a ServiceBroker"
        await puller.start(subscriber.connection)

    async def stop_puller() -> None:
        await puller.stop(subscriber._outer_config.graceful_timeout)
        await stop()

    subscriber._create_subscription = start_puller
    subscriber.stop = stop_puller


def _documented(payload: Any) -> Any:
    """A function that FastStream reads the payload's schema from and never calls."""

    async def receive(message: Any) -> None:
        raise AssertionError(f"PullSubscriber handles {message}")

    receive.__annotations__["message"] = payload
    return receive
