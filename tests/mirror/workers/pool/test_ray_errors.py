"""What Ray raises becomes one line that is true, and names the remedy."""

import pytest
from ray import exceptions
from ray._private.utils import check_version_info

from parley.broker.core.errors import BrokerUnavailable
from parley.workers.pool.ray_errors import (
    CHECK_ADDRESS,
    CHECK_MACHINE,
    CHECK_NODES,
    GIVE_TOKEN,
    INSTALL_PARLEY,
    SAME_VERSIONS,
    RayUnavailable,
    explained,
    first_line,
    is_another_cluster,
)

HEAD = "10.0.0.1:6379"
NO_PARLEY = """The actor died because of an error raised in its creation task, ray::FailToReadActorClass.__init__() (pid=1)
  At least one of the input arguments for this task could not be computed:
ray.exceptions.RaySystemError: System error: Failed to load actor class
traceback: Traceback (most recent call last):
ModuleNotFoundError: No module named 'parley'
"""


def mismatch(ray: str, python: str) -> Exception:
    """As Ray itself raises it."""
    with pytest.raises(RuntimeError) as caught:
        check_version_info({"ray_version": ray, "python_version": python}, "node 10.0.0.2")
    return caught.value


def caused(error: Exception, cause: str) -> Exception:
    error.__cause__ = ValueError(cause)
    return error


CASES: dict[str, tuple[BaseException, str, str]] = {
    "another Ray": (
        mismatch("2.49.0", "3.11.1"), "the cluster runs Ray 2.49.0 on Python 3.11.1, and this process Ray 2.60",
        SAME_VERSIONS,
    ),
    "another Ray, in a cause": (
        caused(ConnectionError("Failed to connect"), str(mismatch("2.59.1", "3.12.0"))),
        "the cluster runs Ray 2.59.1 on Python 3.12.0", SAME_VERSIONS,
    ),
    "no Parley": (
        exceptions.RayActorError(error_msg=NO_PARLEY), "its nodes have no Parley (No module named 'parley')",
        INSTALL_PARLEY,
    ),
    "an older Parley": (
        exceptions.RayActorError(error_msg=NO_PARLEY.replace("'parley'", "'parley.workers.pool.actor_logs'")),
        "its nodes have another Parley (No module named 'parley.workers.pool.actor_logs')", INSTALL_PARLEY,
    ),
    "another Parley": (
        exceptions.RayActorError(error_msg=NO_PARLEY.replace("ModuleNotFoundError: No module", "AttributeError: no name")),
        "an actor could not be made there (AttributeError: no name named 'parley')", INSTALL_PARLEY,
    ),
    "no NATS client": (
        exceptions.RayActorError(error_msg=NO_PARLEY.replace("'parley'", "'nats'")),
        "its nodes lack what Parley needs (No module named 'nats')", INSTALL_PARLEY,
    ),
    "a wrong token": (
        caused(RuntimeError("Ray could not start"), "Unauthenticated: RPC error: InvalidAuthToken: missing"),
        "it asks for a token, and has got none or a wrong one", GIVE_TOKEN,
    ),
    "no token": (
        exceptions.AuthenticationError("Token authentication is enabled but no authentication token was found"),
        "it asks for a token, and has got none or a wrong one", GIVE_TOKEN,
    ),
    "slow": (TimeoutError(), "not up within 60 s", CHECK_ADDRESS),
    "a quoted traceback": (
        exceptions.RayActorError(
            error_msg="ray::A.start()\n  File 'x'\n    raise ValueError\nValueError: no such thing\n"
        ),
        "ValueError: no such thing", CHECK_ADDRESS,
    ),
    "a dead actor": (
        exceptions.RayActorError(
            error_msg="The actor died unexpectedly before finishing this task.\n\tclass_name: A\n\tpid: 7\n"
            "The actor is dead because its node has died."
        ),
        "The actor is dead because its node has died", CHECK_ADDRESS,
    ),
    "a dead actor, and no more": (
        exceptions.RayActorError(error_msg="The actor died unexpectedly before finishing this task."),
        "The actor died unexpectedly before finishing this task", CHECK_ADDRESS,
    ),
    "several lines": (RuntimeError("Ray is not here.\nSee the docs."), "Ray is not here", CHECK_ADDRESS),
    "no words": (RuntimeError(), "RuntimeError()", CHECK_ADDRESS),
}  # fmt: skip


@pytest.mark.parametrize(("error", "reason", "remedy"), CASES.values(), ids=CASES)
def test_it_is_one_line_with_its_reason_and_its_remedy(
    error: BaseException, reason: str, remedy: str
) -> None:
    found = explained(HEAD, error, waited_seconds=60.0)
    assert found.reason.startswith(reason)
    assert found.remedy == remedy
    assert str(found) == f"cannot use Ray at {HEAD}: {found.reason}. {remedy}"
    assert "\n" not in str(found)


def test_what_an_actor_could_not_do_is_said_in_its_own_words() -> None:
    refused = BrokerUnavailable("nats://127.0.0.1:4222", "nobody listens there")
    task_error = exceptions.RayTaskError("start", "Traceback (most recent call last):\n…", refused)  # type: ignore[no-untyped-call]
    error = task_error.as_instanceof_cause()  # type: ignore[no-untyped-call]
    found = explained(HEAD, error, waited_seconds=60.0)
    assert str(refused) in found.reason
    assert found.remedy == CHECK_NODES
    assert "Traceback" not in str(found)


def test_what_says_it_already_is_left_alone() -> None:
    said = RayUnavailable(HEAD, "no room", "Add CPUs")
    assert explained(None, said, waited_seconds=1.0) is said


def test_a_local_ray_has_no_address_to_be_checked() -> None:
    said = str(explained(None, RuntimeError("no memory"), waited_seconds=1.0))
    assert said == f"cannot use Ray at this machine: no memory. {CHECK_MACHINE}"
    assert "RAY_ADDRESS" not in said


def test_where_nothing_is_known_to_do_nothing_is_advised() -> None:
    assert explained(HEAD, RuntimeError("gone"), waited_seconds=1.0, usual="").short == "gone"


def test_a_cluster_that_was_started_anew_is_known_by_its_error() -> None:
    assert is_another_cluster(RuntimeError("WrongClusterID: expected a, got b"))
    assert is_another_cluster(caused(RuntimeError("x"), "WrongClusterID"))
    assert not is_another_cluster(RuntimeError("TimedOut"))


def test_a_circle_of_causes_is_read_to_an_end() -> None:
    error = RuntimeError("a")
    error.__cause__ = ValueError("b")
    error.__cause__.__cause__ = error
    assert first_line(error) == "a"
    assert not is_another_cluster(error)
