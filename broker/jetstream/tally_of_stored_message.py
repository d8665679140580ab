"""A tally as the bucket `deliberations` has it, read from a stored message."""

from pydantic import ValidationError

from parley.broker.core.tally import Tally
from parley.broker.jetstream.jetstream import StoredMessage


def tally_of(stored: StoredMessage) -> Tally | None:
    """None for one that is deleted, and for one that cannot be read: the service ends that deliberation."""
    if not stored.data:
        return None
    try:
        return Tally.model_validate_json(stored.data)
    except ValidationError:
        return None
