"""Peers are found by name, whether what they need is installed or not."""

from pathlib import Path

import pytest

import benchmarks.peers
from benchmarks.curves import peers
from benchmarks.peers.roster import PEERS, running


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_is_found_and_nothing_is_started_or_imported_yet(name: str) -> None:
    assert hasattr(running(name, "http://127.0.0.1:9"), "__aenter__")


def test_every_peer_has_its_file() -> None:
    folder = Path(benchmarks.peers.__file__).parent
    assert all((folder / f"{module}.py").is_file() for module in PEERS.values())


def test_peers_are_chosen_by_name() -> None:
    assert peers("celery,actor") == ["celery", "actor"]
    assert peers("") == []
    with pytest.raises(Exception, match="no such peer: rq"):
        peers("celery,rq")
