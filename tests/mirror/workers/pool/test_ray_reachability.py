"""Whether Ray's head can be reached is known in seconds."""

import socket
from collections.abc import Iterator

import pytest

from parley.workers.pool.ray_reachability import check_reachable, parse_address, unreachable


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield int(server.getsockname()[1])


@pytest.fixture
def nobody() -> int:
    with socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))
        return int(gone.getsockname()[1])


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("head:6379", ("head", 6379)),
        ("10.0.0.1:6379", ("10.0.0.1", 6379)),
        ("[::1]:6379", ("::1", 6379)),
        ("ray://head:10001", ("head", 10001)),
        ("auto", None),
        ("local", None),
    ],
)
def test_an_address_has_host_and_port_or_is_left_to_ray(address: str, place: tuple[str, int] | None) -> None:
    assert parse_address(address) == place


@pytest.mark.parametrize("address", ["head:port", "head:99999", "ray://head:-1"])
def test_a_port_that_is_no_number_is_refused(address: str) -> None:
    with pytest.raises(ConnectionError):
        parse_address(address)


async def test_a_listening_head_is_reachable(listening: int) -> None:
    check_reachable(f"127.0.0.1:{listening}")
    assert await unreachable(("127.0.0.1", listening)) is None


async def test_a_head_that_does_not_listen_is_unreachable(nobody: int) -> None:
    with pytest.raises(ConnectionError, match="nobody listens there"):
        check_reachable(f"ray://127.0.0.1:{nobody}")
    assert await unreachable(("127.0.0.1", nobody)) == f"Ray's head at 127.0.0.1:{nobody} cannot be reached"


def test_an_address_without_a_port_is_not_checked() -> None:
    check_reachable("auto")
