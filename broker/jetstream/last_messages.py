"""The newest message under each of many subjects, with one request (a batched direct get, NATS 2.11)."""

import asyncio
import json
from collections.abc import Mapping, Sequence

from nats.aio.msg import Msg

from parley.broker.jetstream.jetstream import JetStream, StoredMessage

# A batch is a shortcut: who gets no answer in time asks for each.
ANSWER_SECONDS = 0.2


async def last_messages(
    jetstream: JetStream, stream: str, subjects: Sequence[str]
) -> Mapping[str, StoredMessage]:
    """By subject; those without a message, and those whose answer did not come in time, are not in it. At most 1,024
    subjects.

    Any replica answers, so a message may be an old one (nats-server#4710). Raises BrokerUnavailable.
    """
    found: dict[str, StoredMessage] = {}
    wanted = set(subjects)
    done = asyncio.get_running_loop().create_future()

    def take(message: Msg) -> None:
        headers = message.headers or {}
        subject, seq = headers.get("Nats-Subject", ""), headers.get("Nats-Sequence", "")
        # An end, or an error, has a status of its own.
        if "Status" not in headers and subject in wanted and seq.isdecimal():
            found[subject] = StoredMessage(int(seq), subject, message.data, headers)
        ended = "Status" in headers and "Nats-Sequence" not in headers
        if (ended or len(found) == len(wanted)) and not done.done():
            done.set_result(None)

    with jetstream.translate_errors():
        inbox = jetstream.nc.new_inbox()
        subscription = await jetstream.nc.subscribe_inline(inbox, take)
        try:
            question = json.dumps({"multi_last": list(subjects)}).encode()
            await jetstream.nc.publish(f"$JS.API.DIRECT.GET.{stream}", question, reply=inbox)
            await asyncio.wait([done], timeout=ANSWER_SECONDS)
        finally:
            await subscription.unsubscribe()
    return found
