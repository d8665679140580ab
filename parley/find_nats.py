"""Where NATS is, and how a program proves itself to it: as its environment says, or this user's running `parley up`.

`parley up` announces its URL in one file of the state folder. Only the owner can read it: the URL holds the token.
It reads NATS_URL, PARLEY_HOME and PARLEY_NATS_…, and no other setting: a client starts whatever else is set.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from parley.broker.core.errors import SettingsError
from parley.broker.core.url_masking import split_servers
from parley.broker.jetstream.nats_access import (
    LOGIN_NAMES,
    OPTION_NAMES,
    NatsAccess,
    NatsOptions,
    load_access,
)
from parley.broker.jetstream.nats_address import (
    credentials_of,
    has_credentials,
    is_usable_as_written,
)

_FILE = "up.json"


def find_nats() -> str | None:
    """The URL of PARLEY_NATS_URL or NATS_URL, else the announced one, else None."""
    return _set_url() or announced(state_folder())


def _set_url() -> str | None:
    return _variable("PARLEY_NATS_URL") or _variable("NATS_URL")


def find_server(url: str | None, options: NatsOptions) -> tuple[str | None, NatsAccess]:
    """The URL to connect to, and how. `url` and `options` win over the environment; credentials of one kind among them
    over all credentials there.

    The `parley up` of this machine has a token and nothing else: what is set is for another NATS. Raises SettingsError.
    """
    given = {name: value for name, value in options.items() if value is not None}
    found = url or _set_url()
    there = {name: value for name in OPTION_NAMES if (value := _variable(option_variable(name))) is not None}
    if found is None:
        found = announced(state_folder())
        there = {name: value for name, value in there.items() if name == "inbox_prefix"}
    url_name = "the URL" if url else "NATS_URL"
    if found is not None and not all(map(is_usable_as_written, split_servers(found))):
        raise SettingsError([f"{url_name}: not a URL like nats://127.0.0.1:4222"])
    if given.keys() & set(LOGIN_NAMES) or (url and has_credentials(url)):
        there = {name: value for name, value in there.items() if name not in LOGIN_NAMES}
    merged: dict[str, Any] = {**there, **given}
    if isinstance(tls_first := merged.get("tls_first"), str):
        merged["tls_first"] = tls_first.strip().lower() in ("1", "true", "yes", "on", "t", "y")

    def label(name: str) -> str:
        return name if name in given else option_variable(name)

    access = access_for(found, merged, label, url_name=url_name)
    return found, access


def access_for(
    url: str | None, options: Mapping[str, object], label: Callable[[str], str], *, url_name: str
) -> NatsAccess:
    """Read what `options` name. Raises SettingsError, also where the URL has other credentials than they."""
    access = load_access(options, label)
    if not access.has_login:
        return access
    in_url = [found for found in credentials_of(url or "") if found is not None]
    completes = access.user is None and access.password is not None
    if completes and in_url and all(found.password is None for found in in_url):
        return access  # NATS_URL=nats://user@host, and the password apart
    used = next(name for name in LOGIN_NAMES if options.get(name) is not None)
    if completes and not in_url:
        raise SettingsError([f"{label(used)}: {label('user')} is missing"])
    if in_url:
        raise SettingsError([f"{label(used)}: {url_name} has credentials too; only one of them can be used"])
    return access


def option_variable(name: str) -> str:
    """The variable that sets an option of `parley.connect`."""
    return f"PARLEY_NATS_{name.upper()}"


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
