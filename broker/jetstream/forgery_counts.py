"""What came under a name that is not its own: logged once a kind, counted, and otherwise ignored."""

import logging
from enum import StrEnum

log = logging.getLogger("parley.broker")


class Forgery(StrEnum):
    """Closed: a label of a metric."""

    REPLY_SUBJECT = "reply subject"
    DELIVERY = "delivery"
    ACKNOWLEDGEMENT = "acknowledgement"
    ENDING = "ending"


_MEANINGS = {
    Forgery.REPLY_SUBJECT: "a question asks for its answer at a subject that is no client's inbox",
    Forgery.DELIVERY: "a message in the inbox of a consumer is not from that consumer",
    Forgery.ACKNOWLEDGEMENT: "an acknowledgement names another stream than the message went to",
    Forgery.ENDING: "the message where an ending should be stored is not that ending",
}


class Forgeries:
    """Those that one connection has met."""

    def __init__(self) -> None:
        self.counts: dict[Forgery, int] = dict.fromkeys(Forgery, 0)

    def note(self, kind: Forgery, where: str) -> None:
        """Count one; the first of its kind is logged. `where`: a name of ours, never text of the sender's."""
        self.counts[kind] += 1
        if self.counts[kind] == 1:
            log.warning(
                "%s: %s; it is ignored, and so are later ones, without a line each", where, _MEANINGS[kind]
            )
