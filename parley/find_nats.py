"""Where NATS is, for a program that names no URL: the environment's, or that of this user's running `parley up`.

`parley up` announces its URL in one file of the state folder. Only the owner can read it: the URL holds the token.
It reads NATS_URL, PARLEY_NATS_URL and PARLEY_HOME, and no other setting: a client starts whatever else is set.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_FILE = "up.json"


def find_nats() -> str | None:
    """The URL of PARLEY_NATS_URL or NATS_URL, else the announced one, else None."""
    return _variable("PARLEY_NATS_URL") or _variable("NATS_URL") or announced(state_folder())


def state_folder() -> Path:
    """PARLEY_HOME, or `parley` in the user's state folder (XDG_STATE_HOME, ~/.local/state)."""
    home = _variable("PARLEY_HOME")
    return Path(home) if home else default_state_folder()


def default_state_folder() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "parley"


def _variable(name: str) -> str | None:
    """Its value, None if it is unset or blank. Lower case counts too, as in `parley.settings`."""
    for value in (os.environ.get(name), os.environ.get(name.lower())):
        if value is not None and value.strip():
            return value
    return None


@contextmanager
def announce(home: Path, nats_url: str) -> Iterator[None]:
    """Announce `nats_url` in the state folder `home` while the block lasts."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = home / _FILE
    path.unlink(missing_ok=True)
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(json.dumps({"nats_url": nats_url, "pid": os.getpid()}))
    try:
        yield
    finally:
        if _read(path).get("pid") == os.getpid():  # a later `parley up` may have replaced the file
            path.unlink(missing_ok=True)


def announced(home: Path) -> str | None:
    """The URL announced in the state folder `home`; None if the process that announced it is gone."""
    try:
        found = _read(home / _FILE)
        os.kill(found["pid"], 0)  # a crash leaves the file behind
        return str(found["nats_url"])
    except (OSError, KeyError, TypeError, OverflowError):
        return None


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
