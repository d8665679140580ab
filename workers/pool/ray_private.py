"""All that Parley needs of Ray beyond its documented API, checked with Ray 2.60 and held by the bound on its version.

`ray` is imported from here and from nowhere else, because Ray reads its environment variables when it is imported.
"""

import os

# Ray starts its workers with the driver's own command if that was `uv run`. That took minutes.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray gives its workers the lowest priority (niceness 15). Beside a model server that keeps all cores busy, they would
# hardly run. In a cluster that is joined, its own raylets decide.
os.environ.setdefault("RAY_worker_niceness", "0")

import ray
from ray._private import ray_constants
from ray.exceptions import RayError
from ray.job_config import JobConfig

__all__ = ["InstalledCode", "RayError", "asks_for_token", "is_another_cluster", "ray", "stay_on_loopback"]


class InstalledCode(JobConfig):
    """Workers import what is installed, and nothing from the driver's folders.

    Ray puts the driver's working directory and the folder of its script before everything else on the workers' import
    path: a `nats.py` or `queue.py` of the user's would be imported instead of the library. Ray leaves both out for a
    job that has a working directory of its own (`ray._private.worker.connect`). A real one costs an upload and slower
    starts.
    """

    def _runtime_env_has_working_dir(self) -> bool:
        return True


def stay_on_loopback() -> None:
    """Have a local Ray listen on 127.0.0.1 only.

    Ray binds to loopback by default only on macOS and Windows. This turns that on for Linux: the variable for child
    processes, the constant for this process, which has read the variable already. `_node_ip_address="127.0.0.1"` does
    not: Ray replaces it by the machine's outside address.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False


def is_another_cluster(error: BaseException) -> bool:
    """Whether Ray's head was started anew: it knows nothing of our actors, and a driver cannot join a second
    cluster."""
    return "WrongClusterID" in str(error)


def asks_for_token(error: BaseException) -> bool:
    """Whether the cluster refused us for want of the right token. Ray names the cause in the first exception of the
    chain."""
    cause: BaseException | None = error
    while cause is not None:
        if "InvalidAuthToken" in str(cause):
            return True
        cause = cause.__cause__
    return False
