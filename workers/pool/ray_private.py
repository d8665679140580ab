"""All that Parley needs of Ray beyond its documented API, checked with Ray 2.60 and held by the bound on its version.

`ray` is imported from here and from nowhere else, because Ray reads its environment variables when it is imported.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

# Ray starts its workers with the driver's own command if that was `uv run`. That took minutes.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray gives its workers the lowest priority (niceness 15). Beside a model server that keeps all cores busy, they would
# hardly run. In a cluster that is joined, its own raylets decide.
os.environ.setdefault("RAY_worker_niceness", "0")

import ray
from ray._common.usage import usage_lib
from ray._private import ray_constants, ray_logging, services
from ray._private import utils as ray_utils
from ray.exceptions import RayError, RpcError
from ray.job_config import JobConfig

__all__ = [
    "InstalledCode",
    "NotAHead",
    "NotANode",
    "RayError",
    "StillStarting",
    "check_cluster",
    "free_resources",
    "head_of_this_machine",
    "is_placed",
    "pass_logs_to",
    "ray",
    "session_name",
    "stay_on_loopback",
    "use_token_if_there",
    "without_other_clusters",
]

# Variables that would have Ray join or share what is somebody else's.
OTHER_CLUSTERS = ("RAY_ADDRESS", "RAY_REDIS_ADDRESS", "RAY_GCS_SERVER_PORT", "RAY_JOB_CONFIG_JSON_ENV_VAR")
# Ray's own handler of the workers' output, which prints it.
_PRINTS = "ray_print_logs"


class NotAHead(Exception):
    """What listens there speaks gRPC, and not as Ray's head does: it is another process of Ray, say."""


class StillStarting(Exception):
    """The head is there, and has not said yet which Ray it runs."""


class NotANode(Exception):
    """The cluster is there, and this machine is not one of its nodes."""


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


@contextmanager
def without_other_clusters() -> Iterator[None]:
    """Ray, and what it starts in the block, sees no cluster but the one that we name."""
    kept = {name: os.environ.pop(name) for name in OTHER_CLUSTERS if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def head_of_this_machine() -> str:
    """The head's address for `auto`, as Ray finds it. Raises ConnectionError."""
    with without_other_clusters():
        return str(services.canonicalize_bootstrap_address_or_die("auto"))


def use_token_if_there() -> None:
    """As Ray does for `auto`: a token that the user has is used, unless RAY_AUTH_MODE says something else."""
    logging.getLogger("ray").setLevel(logging.ERROR)  # it warns of a token that is used
    with suppress(ImportError):  # Ray before 2.52
        from ray._private.authentication import authentication_token_setup as setup

        setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def check_cluster(address: str) -> None:
    """Raises, in Ray's words, if the cluster at `address` runs another Ray or Python or wants a token; NotAHead, StillStarting,
    NotANode.

    Blocks, for 40 s where something else listens (2.60).
    """
    try:
        client = ray._raylet.GcsClient(address=address)  # type: ignore[attr-defined]
    except RpcError as error:
        if error.rpc_code == _UNIMPLEMENTED:
            raise NotAHead(address) from error
        raise
    try:
        metadata = usage_lib.get_cluster_metadata(client)
    except AttributeError as error:  # Ray takes it that there is some
        raise StillStarting(address) from error
    ray_utils.check_version_info(metadata, "this machine")
    find_nodes = getattr(services, "find_node_ids", None)
    if find_nodes is None:  # Ray 2.50
        return
    alive = {node.hex() for node, info in client.get_all_node_info().items() if info.state == _ALIVE}
    if not alive.intersection(find_nodes()):
        raise NotANode(address)


# Of gRPC.
_UNIMPLEMENTED = 12
# `GcsNodeInfo.GcsNodeState.ALIVE` of Ray's protocol.
_ALIVE = 0


def session_name() -> str:
    """The cluster's session, asked of the head now. Raises what Ray raises, after 2 s at most."""
    client = ray._private.worker.global_worker.gcs_client  # type: ignore[attr-defined]
    found = client.internal_kv_get(b"session_name", ray_constants.KV_NAMESPACE_SESSION, timeout=2)
    return found.decode() if found else ""


def free_resources() -> Mapping[str, Mapping[str, float]]:
    """What nothing has reserved, by node and resource."""
    found: Mapping[str, Mapping[str, float]] = ray._private.state.available_resources_per_node()  # type: ignore[no-untyped-call]
    return found


def is_placed(actor_id: str) -> bool:
    """Whether an actor has a process. While that starts it has none, though it has taken its CPUs."""
    entry = ray._private.state.actors(actor_id) or {}
    # The node's id is there as soon as the actor is asked for.
    return bool(entry.get("Address", {}).get("IPAddress"))


def pass_logs_to(handle: Callable[[dict[str, Any]], None]) -> None:
    """Have the output of our job's workers handled, and not printed. For a Ray with `log_to_driver`."""
    ray_logging.global_worker_stdstream_dispatcher.remove_handler(_PRINTS)
    ray_logging.global_worker_stdstream_dispatcher.add_handler("parley", handle)
