"""nats-py's JetStream, with a cheaper publish and the whole of a consumer's configuration."""

from dataclasses import dataclass
from typing import Any

import nats.errors
import nats.js.errors
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, ConsumerInfo, PubAck
from pydantic_core import from_json


@dataclass
class WholeConsumerConfig(ConsumerConfig):
    """nats-py's (2.16.0) and what it leaves out: limits of one pull request, and groups of those who pull."""

    max_batch: int | None = None
    max_bytes: int | None = None
    priority_policy: str | None = None
    priority_groups: list[str] | None = None


class JetStreamClient(JetStreamContext):
    """nats-py's, with a publish that reads its acknowledgement at a third of the cost."""

    async def consumer_info(self, stream: str, consumer: str, timeout: float | None = None) -> ConsumerInfo:
        """As nats-py's, with the whole configuration. `pause_until` is set only while the consumer is paused."""
        subject = f"{self._prefix}.CONSUMER.INFO.{stream}.{consumer}"
        answer = await self._api_request(subject, b"", timeout=timeout or self._timeout)
        config = WholeConsumerConfig.from_response(dict(answer["config"]))
        info: ConsumerInfo = ConsumerInfo.from_response(answer)
        info.config = config if info.paused else config.evolve(pause_until=None)
        return info

    async def publish(self, subject: str, payload: bytes = b"", *arguments: Any, **options: Any) -> PubAck:
        """As nats-py's."""
        if arguments or options.keys() - {"headers", "timeout"}:
            return await super().publish(subject, payload, *arguments, **options)
        try:
            timeout = options.get("timeout") or self._timeout
            answer = await self._nc.request(subject, payload, timeout=timeout, headers=options.get("headers"))
        except nats.errors.NoRespondersError as error:
            raise nats.js.errors.NoStreamResponseError from error
        read = from_json(answer.data)
        if "error" in read:
            raise nats.js.errors.APIError.from_error(read["error"])
        # nats-py looks every field up in the dataclass.
        return PubAck(read["stream"], read["seq"], read.get("domain"), read.get("duplicate"))
