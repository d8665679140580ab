"""What Parley needs of Ray beyond its API is still there, in the version that is installed."""

import inspect
from pathlib import Path

import pytest

from parley.workers.pool.ray_private import InstalledCode, asks_for_token, is_another_cluster, ray


def chained(cause: str) -> BaseException:
    error = RuntimeError("Ray could not start")
    error.__cause__ = ValueError(f"status: {cause}")
    return error


def test_a_refused_token_is_found_behind_rays_own_error() -> None:
    assert asks_for_token(chained("InvalidAuthToken"))
    assert not asks_for_token(chained("TimedOut"))


def test_a_cluster_that_was_started_anew_is_known_by_its_error() -> None:
    assert is_another_cluster(RuntimeError("WrongClusterID: expected a, got b"))
    assert not is_another_cluster(RuntimeError("TimedOut"))


@pytest.mark.parametrize("text", ["InvalidAuthToken", "WrongClusterID"])
def test_ray_still_has_the_texts_that_its_errors_are_known_by(text: str) -> None:
    assert text.encode() in Path(ray._raylet.__file__).read_bytes()


def test_ray_still_asks_the_job_config_before_it_adds_the_drivers_folders() -> None:
    assert InstalledCode()._runtime_env_has_working_dir()
    assert "job_config._runtime_env_has_working_dir()" in inspect.getsource(ray._private.worker.connect)
