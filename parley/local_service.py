"""Where this user's `parley up` listens, so that `parley ask` in another terminal finds it without being told.

One file in the state folder, readable by its owner only: the URL holds the token.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from parley.settings import Settings

_NAME = "up.json"


@contextmanager
def announce(home: Path, nats_url: str) -> Iterator[None]:
    """Say where we are while the block lasts."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = home / _NAME
    path.unlink(missing_ok=True)
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(json.dumps({"nats_url": nats_url, "pid": os.getpid()}))
    try:
        yield
    finally:
        if _told(path).get("pid") == os.getpid():  # not somebody's who came after us
            path.unlink(missing_ok=True)


def _told(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def with_local_nats(settings: Settings) -> Settings:
    """The settings, with the announced NATS where none is named."""
    if settings.nats_url is not None:
        return settings
    try:
        found = _told(settings.home / _NAME)
        os.kill(found["pid"], 0)  # a file whose process is gone was left by a crash
        return settings.model_copy(update={"nats_url": str(found["nats_url"])})
    except (OSError, KeyError, TypeError, OverflowError):
        return settings
