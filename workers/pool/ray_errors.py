"""What Ray's errors mean: one true line for the operator, with what to do about it. Reads texts, imports no Ray."""

import re

from parley.broker.core.errors import ParleyError, Unavailable

THIS_MACHINE = "this machine"
WITHOUT_RAY = "PARLEY_POOL=local runs without Ray"
# Where nothing better is known.
CHECK_ADDRESS = f"Is RAY_ADDRESS right? {WITHOUT_RAY}"
CHECK_MACHINE = f"A local Ray needs about 1 GiB of memory and a writable temporary folder. {WITHOUT_RAY}"
CHECK_NODES = (
    "Ray's nodes must reach NATS under the same address as this process, with the rights of a worker"
)
SAME_VERSIONS = "Both sides of a Ray cluster need the same Ray and the same Python: install the cluster's here, or this on its nodes"
INSTALL_PARLEY = (
    "Install parley-queue[server], in the version that runs here, into the Python of every node that runs actors "
    f"(Ray brings no code of ours there). {WITHOUT_RAY}"
)
GIVE_TOKEN = "Set RAY_AUTH_MODE=token, and the cluster's token as RAY_AUTH_TOKEN or in ~/.ray/auth_token"

_SIDE = re.compile(r"started with:\s*Ray: (\S+)\s*Python: (\S+)")
_NO_MODULE = re.compile(r"ModuleNotFoundError: (No module named '([^']+)')")
# The last line of a Python traceback: the error itself.
_RAISED = re.compile(r"^([A-Za-z_][\w.]*: .+)$", re.MULTILINE)
_MOST_CAUSES = 20
# Of an actor whose code could not be read, or whose constructor failed.
_CREATION = "error raised in its creation task"
_DIED = "The actor died unexpectedly"
# By these a refused token is known.
_TOKEN_WORDS = (
    "Unauthenticated",
    "InvalidAuthToken",
    "no authentication token was found",
    "authentication token is invalid",
)


class RayUnavailable(Unavailable):
    """`address`: where Ray is, THIS_MACHINE for a local one. `remedy`: whole sentences, without the last full stop."""

    def __init__(self, address: str, reason: str, remedy: str = CHECK_ADDRESS) -> None:
        super().__init__(address, reason, remedy)
        self.address = address
        self.reason = reason
        self.remedy = remedy

    @property
    def short(self) -> str:
        """Without the address, for those who know it."""
        return f"{self.reason}. {self.remedy}" if self.remedy else self.reason

    def __str__(self) -> str:
        return f"cannot use Ray at {self.address}: {self.short}"


def explained(
    address: str | None, error: BaseException, *, waited_seconds: float, usual: str | None = None
) -> RayUnavailable:
    """What Ray, asyncio or an actor raised, as one sentence with its remedy. `address` None: a local Ray.

    `waited_seconds`: the bound that a bare TimeoutError has passed. `usual`: the remedy where nothing better is known.
    """
    where = address or THIS_MACHINE
    if usual is None:
        usual = CHECK_ADDRESS if address is not None else CHECK_MACHINE
    if isinstance(error, RayUnavailable):
        return error
    cause = getattr(error, "cause", None)  # what an actor's method raised (RayTaskError)
    if isinstance(cause, ParleyError):
        return RayUnavailable(where, f"an actor could not start ({cause})", CHECK_NODES)
    text = _whole_text(error)
    if (versions := _SIDE.findall(text)) and "ersion mismatch" in text:
        return RayUnavailable(where, _mismatch(versions), SAME_VERSIONS)
    if asks_for_token(error):
        return RayUnavailable(where, "it asks for a token, and has got none or a wrong one", GIVE_TOKEN)
    if missing := _NO_MODULE.search(text):
        return RayUnavailable(where, f"its nodes {_lacking(missing[2])} ({missing[1]})", INSTALL_PARLEY)
    if _CREATION in text:
        return RayUnavailable(
            where, f"an actor could not be made there ({first_line(error)})", INSTALL_PARLEY
        )
    if isinstance(error, TimeoutError) and not str(error):
        return RayUnavailable(where, f"not up within {waited_seconds:g} s", usual)
    return RayUnavailable(where, first_line(error), usual)


def _lacking(module: str) -> str:
    if module == "parley":
        return "have no Parley"
    return "have another Parley" if module.startswith("parley.") else "lack what Parley needs"


def _mismatch(versions: list[tuple[str, str]]) -> str:
    """Ray names the cluster's side first."""
    (their_ray, their_python), (our_ray, our_python) = versions[0], versions[-1]
    return f"the cluster runs Ray {their_ray} on Python {their_python}, and this process Ray {our_ray} on Python {our_python}"


def asks_for_token(error: BaseException) -> bool:
    """Whether the cluster refused us for want of the right token."""
    text = _whole_text(error)
    return any(word in text for word in _TOKEN_WORDS)


def is_another_cluster(error: BaseException) -> bool:
    """Whether Ray's head was started anew: it knows nothing of our actors, and a driver cannot join a second
    cluster."""
    return "WrongClusterID" in _whole_text(error)


def first_line(error: BaseException) -> str:
    """The line that says what is wrong: the last exception of a quoted traceback, else the first line."""
    text = str(error).strip()
    quoted = "Traceback (most recent call last)" in text or "ray::" in text
    if quoted and (raised := _RAISED.findall(text)):
        return str(raised[-1])
    # Of a dead actor Ray lists what it knows, indented, before it says why.
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("\t")] or [
        repr(error)
    ]
    why = lines[1] if lines[0].startswith(_DIED) and len(lines) > 1 else lines[0]
    return why.rstrip(".: ")


def _whole_text(error: BaseException) -> str:
    """The texts of an exception and of its causes: Ray names the cause in the first exception of the chain."""
    texts = [str(error)]
    cause = error.__cause__ or error.__context__
    while cause is not None and len(texts) < _MOST_CAUSES:
        texts.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    return "\n".join(texts)
