"""The file `.env` of the working directory, for the command only: settings that the environment does not have.

The file may be another program's: of it only the names of Parley's settings are read, and what cannot be read is
ignored. The service refuses an unknown name that begins with PARLEY_, as it does in the environment. The client library
never reads the file.
"""

import io
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from parley.broker.core.errors import SettingsError
from parley.settings import Settings, load, misspelt, variables

ENV_FILE = ".env"
MAX_ENV_FILE_BYTES = 1024 * 1024


def settings_in(text: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The settings in a file's text that the environment does not set, under whichever of their names."""
    given = {name: value for name, value in _lines_of(text).items() if value}
    found: dict[str, str] = {}
    for field in Settings.model_fields:
        names = variables(field)
        if not any(name in environment for name in names):
            found |= {name: given[name] for name in names if name in given}
    return found


def load_env_file() -> frozenset[str]:
    """Put the settings of the file into this process's environment. Returns their names."""
    found = settings_in(_text(), os.environ)
    os.environ.update(found)
    return frozenset(found)


def load_for_service(**overrides: Any) -> Settings:
    """As `load`, for what runs the service or looks after it: it also refuses unknown names in the file.

    A client's commands use `load`: the file may be of a service of another version.
    """
    problems = [f"{problem} (from {ENV_FILE})" for problem in misspelt(_lines_of(_text()))]
    try:
        settings = load(**overrides)
    except SettingsError as error:
        raise SettingsError([*problems, *error.problems]) from None
    if problems:
        raise SettingsError(problems)
    return settings


def _text() -> str:
    """The file's text; empty where there is none that can be read."""
    try:
        path = Path(ENV_FILE)
        if not path.is_file() or path.stat().st_size > MAX_ENV_FILE_BYTES:
            return ""
        return path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return ""


def _lines_of(text: str) -> dict[str, str]:
    """Each name that is given a value, be it an empty one."""
    logging.getLogger("dotenv.main").setLevel(logging.ERROR)  # it warns of each line that it cannot read
    # Without interpolation: a password may hold a `$`.
    found = dotenv_values(stream=io.StringIO(text), interpolate=False)
    return {name: value for name, value in found.items() if value is not None}
