"""What a Ray that is started on this machine keeps from the machine's other users, and from its own daemons."""

import logging
import os
import re
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from parley.broker.child_process import CHILD_VARIABLES

log = logging.getLogger("parley.workers")

# Variables that Ray's daemons, and so all of its workers, get beside those of every child: Ray's own, and how GPUs, C
# libraries and gRPC run. No list of secret words knows them all: the file of endpoints may name any variable, such as
# OPENAI_PAT. An actor is told its settings.
_RAYS_VARIABLES = re.compile(
    r"RAY_.*|(CUDA|NVIDIA|ROCR|HIP|HSA)_.*|LD_[A-Z_]+|MALLOC_[A-Z_]+|(OMP|OPENBLAS|MKL)_[A-Z_]+|GRPC_[A-Z_]+|SHELL|TERM"
)
_ENVIRONMENT = threading.Lock()


@contextmanager
def in_private() -> Iterator[None]:
    """Files and folders that come about in the block are their owner's only, and processes that start in it get only
    what Ray needs. Both are settings of the whole process, for the time of the block."""
    with _ENVIRONMENT:
        before = os.umask(0o077)
        kept = {name: os.environ.pop(name) for name in list(os.environ) if not _is_for_ray(name)}
        try:
            yield
        finally:
            os.environ.update(kept)
            os.umask(before)


def _is_for_ray(name: str) -> bool:
    return any(known.fullmatch(name) for known in (CHILD_VARIABLES, _RAYS_VARIABLES))


def protect_token() -> None:
    """Ray writes its token readable by all (2.60). Who has it runs code as this user."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    with suppress(OSError):  # another user's, or none
        if not named:
            _make_private(path.parent, 0o700)
        if _make_private(path, 0o600):
            log.warning(
                "%s could be read by other users of this machine, and no longer can. If there are any, delete it: Ray "
                "makes another",
                path,
            )


def _make_private(path: Path, mode: int) -> bool:
    """Whether others had rights."""
    found = stat.S_IMODE(path.stat().st_mode)
    if not found & 0o077:
        return False
    path.chmod(mode)
    return True
