"""What nats-server refuses is one line with the remedy."""

import pytest
from nats.js.errors import APIError

from parley.broker.jetstream.provision_errors import refused


@pytest.mark.parametrize(
    ("code", "storage_bytes", "remedy"),
    [
        (10047, None, "give this server or account more (max_file_store, max_file)"),
        (10047, 2**30, "lower PARLEY_STORAGE_BYTES, or unset it"),
        (10026, None, "its max_consumers"),
        (10027, None, "its max_streams"),
        (10065, None, "another stream has these subjects"),
        (10113, None, "switch max_bytes_required off for this account"),
        (10121, None, "its max_ack_pending"),
        (10120, None, "a tier, such as R1 or R3"),
        (10008, None, "start the servers that are down"),
        (10074, None, "set PARLEY_REPLICAS=1, or use a cluster of at least 3"),
    ],
)
def test_a_refusal_names_the_remedy(code: int, storage_bytes: int | None, remedy: str) -> None:
    error = APIError(code=400, err_code=code, description="no")
    line = refused("stream REQUESTS", error, replicas=3, storage_bytes=storage_bytes)
    assert remedy in line
    assert "\n" not in line


def test_a_refusal_without_a_remedy_says_what_the_server_said() -> None:
    error = APIError(code=500, err_code=10012, description="storage type can not be updated")
    line = refused("consumer REQUESTS/intake", error, replicas=1, storage_bytes=None)
    assert line == "consumer REQUESTS/intake: refused by the server: storage type can not be updated"
