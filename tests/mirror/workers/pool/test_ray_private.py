"""What Parley needs of Ray beyond its API is still there, in the version that is installed."""

import inspect
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray._private import worker
from ray._private.ray_logging import global_worker_stdstream_dispatcher
from ray._private.runtime_env import constants
from ray._private.utils import compute_version_info
from ray.exceptions import RpcError

from parley.workers.pool.ray_private import (
    _PRINTS,
    OTHER_CLUSTERS,
    InstalledCode,
    NotAHead,
    NotANode,
    StillStarting,
    check_cluster,
    head_of_this_machine,
    pass_logs_to,
    ray,
    without_other_clusters,
)


@pytest.mark.parametrize("text", ["InvalidAuthToken", "WrongClusterID"])
def test_ray_still_has_the_texts_that_its_errors_are_known_by(text: str) -> None:
    assert text.encode() in Path(ray._raylet.__file__).read_bytes()


def test_ray_still_asks_the_job_config_before_it_adds_the_drivers_folders() -> None:
    assert InstalledCode()._runtime_env_has_working_dir()
    assert "job_config._runtime_env_has_working_dir()" in inspect.getsource(worker.connect)


def test_ray_still_starts_its_own_for_the_word_local() -> None:
    source = inspect.getsource(ray._private.services.canonicalize_bootstrap_address)
    assert 'addr == "local"' in source
    # What a variable says counts only without an address.
    assert 'address is None or address == "auto"' in inspect.getsource(worker.init)
    assert constants.RAY_JOB_CONFIG_JSON_ENV_VAR in OTHER_CLUSTERS


def test_variables_for_other_programs_are_away_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OTHER_CLUSTERS:
        monkeypatch.setenv(name, "head:6379")
    before = dict(os.environ)
    with without_other_clusters():
        assert not set(OTHER_CLUSTERS) & set(os.environ)
    assert dict(os.environ) == before


def test_auto_is_what_ray_left_here_and_not_what_a_variable_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ray._private.services, "find_gcs_addresses", set)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:1")
    with pytest.raises(ConnectionError):
        head_of_this_machine()
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("10.1.2.3:6379")
    assert head_of_this_machine() == "10.1.2.3:6379"


def test_rays_printing_of_logs_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(global_worker_stdstream_dispatcher, "handlers", [])
    printed: list[object] = []
    heard: list[object] = []
    global_worker_stdstream_dispatcher.add_handler(_PRINTS, printed.append)
    pass_logs_to(heard.append)
    global_worker_stdstream_dispatcher.emit({"lines": ["x"]})  # type: ignore[no-untyped-call]
    assert (printed, heard) == ([], [{"lines": ["x"]}])
    assert f'"{_PRINTS}"' in inspect.getsource(worker.connect)


VERSIONS = compute_version_info()  # type: ignore[no-untyped-call]
OURS = json.dumps({"ray_version": VERSIONS[0], "python_version": VERSIONS[1]}).encode()


class Head:
    """Answers what a look at a cluster asks."""

    def __init__(self, *nodes: str, error: Exception | None = None, metadata: bytes | None = OURS) -> None:
        self.nodes, self.error, self.metadata = nodes, error, metadata

    def __call__(self, address: str) -> "Head":
        if self.error is not None:
            raise self.error
        return self

    def internal_kv_get(self, *_: object, **__: object) -> bytes | None:
        """What the head says of its version."""
        return self.metadata

    def get_all_node_info(self) -> dict[bytes, SimpleNamespace]:
        states = (SimpleNamespace(state=0), SimpleNamespace(state=1))
        return {bytes.fromhex(node.strip("-")): states[node.startswith("-")] for node in self.nodes}


def look(monkeypatch: pytest.MonkeyPatch, head: Head) -> None:
    monkeypatch.setattr(ray._raylet, "GcsClient", head)
    check_cluster("127.0.0.1:6379")


def test_a_cluster_of_which_this_machine_is_a_live_node_can_be_joined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray._private.services, "find_node_ids", lambda: {"aa"})
    look(monkeypatch, Head("aa", "bb"))
    for others in (Head("bb"), Head("-aa", "bb"), Head()):
        with pytest.raises(NotANode):
            look(monkeypatch, others)
    monkeypatch.delattr(ray._private.services, "find_node_ids")  # as in Ray 2.50
    look(monkeypatch, Head("bb"))


def test_a_head_that_has_not_said_yet_what_it_runs_is_still_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StillStarting):
        look(monkeypatch, Head(metadata=None))
    with pytest.raises(RuntimeError, match="Version mismatch"):
        look(monkeypatch, Head(metadata=OURS.replace(ray.__version__.encode(), b"2.1.0")))


def test_what_speaks_grpc_and_is_no_head_is_known_by_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotAHead):
        look(monkeypatch, Head(error=RpcError("RPC error", 12)))  # type: ignore[no-untyped-call]
    with pytest.raises(RpcError):
        look(monkeypatch, Head(error=RpcError("RPC error", 14)))  # type: ignore[no-untyped-call]
