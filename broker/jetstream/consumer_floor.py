"""What a consumer has settled, asked of the server."""

from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.topology import Durable
from parley.broker.jetstream.trim_rules import Floor


async def consumer_floor(jetstream: JetStream, durable: Durable) -> Floor:
    """Raises BrokerUnavailable."""
    with jetstream.translate_errors():
        consumer = await jetstream.js.consumer_info(durable.stream, durable.name)
    settled = consumer.ack_floor.stream_seq if consumer.ack_floor is not None else 0
    return Floor(settled, idle=not consumer.num_pending and not consumer.num_ack_pending)
