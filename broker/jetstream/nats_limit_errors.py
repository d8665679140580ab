"""What nats-server says when a connection is at one of its limits, as one line with the limit's name and the remedy. Pure.

The server says it once and closes the connection, or nats-py does.
"""

# By the server's words, in lower case: the limit, and who sets it.
_LIMITS = {
    "maximum connections exceeded": "max_connections of the server",
    "maximum account active connections exceeded": "the account's limit of connections (conn)",
    "maximum subscriptions exceeded": "max_subscriptions of the server or the account",
    "maximum control line exceeded": "max_control_line of the server",
    "maximum payload violation": "max_payload of the server",
    "maximum payload exceeded": "max_payload of the server",
}


def limit_reached(said: str) -> str | None:
    """`said`: an error of the connection. None if it is about no limit."""
    lowered = said.lower()
    for words, limit in _LIMITS.items():
        if words in lowered:
            return f"{words}: raise {limit}"
    return None
