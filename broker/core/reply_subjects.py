"""Which subjects a message may name for an answer. Pure.

NATS checks nobody's right to a subject that a message names, and what Parley publishes there has Parley's rights. So
nothing is published to such a subject that `may_answer` or `may_send_ending` does not allow.
"""

import re
from collections.abc import Sequence

CLIENT_INBOX = "_INBOX"
# The inboxes of Parley's own connections, one prefix a role. Clients have no right to them, and no answer goes there.
OWN_INBOX = "_PARLEY"
SERVICE_INBOX = f"{OWN_INBOX}.service"
WORKER_INBOX = f"{OWN_INBOX}.worker"

DEFAULT_PREFIXES = (f"{CLIENT_INBOX}.",)
# NATS subjects may be longer; an inbox never is.
MAX_CHARACTERS = 256
_SUBJECT = re.compile(r"[A-Za-z0-9_$=-]+(\.[A-Za-z0-9_$=-]+)*")
# Parley's subjects, the server's, the tallies' and objects' (`$KV.`, `$O.`).
_FORBIDDEN = ("$", "deliberation.", "agent.", "deadletter.", f"{OWN_INBOX}.")
# Where nats-server takes the answer to a question from another account. It makes these names itself, and refuses a
# client's message that names one.
_IMPORTED = "_R_."


def is_allowed_prefix(prefix: str) -> bool:
    """Whether an operator may allow this prefix: it ends with a dot and is none of Parley's or the server's own."""
    return prefix.endswith(".") and not prefix.startswith((*_FORBIDDEN, _IMPORTED))


def may_send_ending(subject: str, prefixes: Sequence[str]) -> bool:
    """Whether an ending may be sent to this inbox. `prefixes`: those that the deployment allows."""
    if not subject.startswith(tuple(prefixes)) or subject.startswith(_FORBIDDEN):
        return False
    return len(subject) <= MAX_CHARACTERS and _SUBJECT.fullmatch(subject) is not None


def may_answer(subject: str, prefixes: Sequence[str]) -> bool:
    """Whether a question with this reply subject may be answered."""
    return may_send_ending(subject, (*prefixes, _IMPORTED))
