"""An ending as the stream DELIBERATIONS has it: whether a stored message is what a tally or a status says it is."""

from parley.broker.core.errors import InvalidMessage
from parley.broker.core.messages import Ending, decode_ending
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import StoredMessage


def ending_of(stored: StoredMessage, task_id: str) -> Ending | None:
    """The ending of that deliberation, None for any other message: a place in the stream may have been told by
    somebody else."""
    if stored.subject not in (topology.COMPLETED, topology.FAILED):
        return None
    try:
        ending = decode_ending(stored.data)
    except InvalidMessage:
        return None
    return ending if ending.task_id == task_id else None
