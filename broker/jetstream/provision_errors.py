"""What nats-server says when it makes or changes no stream or consumer, as one line with the remedy. Pure."""

from nats.js.errors import APIError

from parley.broker.jetstream.duplicate_window_limit import window_limit
from parley.broker.jetstream.stream_differences import LEAST_WINDOW_SECONDS

# A limit is more than it has left to promise: 10047 of the server, 10005 of a cluster, 10002 and 10122 of the account,
# 10023 of its resources.
NO_STORAGE = frozenset({10002, 10005, 10023, 10047, 10122})
NAME_IN_USE = 10058
# "error creating store for stream": under load nats-server (2.15.1) says it now and then, and makes the stream when
# it is asked again.
STORE_FAILED = 10049
_NO_REPLICAS = 10074

# What to do about the others, by the server's code.
_REMEDIES = {
    10026: "let this account have more consumers (its max_consumers)",
    10027: "let this account have more streams (its max_streams)",
    10065: "another stream has these subjects: `nats stream ls` shows it; delete it or change its subjects",
    10113: "switch max_bytes_required off for this account: a full stream of timers would drop its oldest",
    10120: "give this account a limit for PARLEY_REPLICAS replicas (a tier, such as R1 or R3), or one for all",
    10121: "let this account have more unacknowledged messages (its max_ack_pending)",
    10009: "its cluster has no leader: start the servers that are down",
    10008: "its cluster has no quorum: start the servers that are down",
}


def refused(what: str, error: APIError, *, replicas: int, storage_bytes: int | None) -> str:
    """`what`: the stream or consumer. `replicas`, `storage_bytes`: the settings."""
    if error.err_code == _NO_REPLICAS:
        remedy = f"set PARLEY_REPLICAS=1, or use a cluster of at least {replicas}"
        return f"PARLEY_REPLICAS={replicas}: this NATS is one server and keeps one copy; {remedy}"
    said = f"{what}: refused by the server: {error.description}"
    if error.err_code in NO_STORAGE:
        free = (
            "give this server or account more (max_file_store, max_file), or delete streams that nobody needs"
        )
        return f"{said}; {'lower PARLEY_STORAGE_BYTES, or unset it' if storage_bytes is not None else free}"
    if window_limit(error) is not None:
        return f"{said}; raise it (duplicate_window of the server's limits) to {LEAST_WINDOW_SECONDS:g} s at least"
    remedy = _REMEDIES.get(error.err_code or 0, "")
    return f"{said}; {remedy}" if remedy else said
