"""The file `.env` of the working directory, for the command only: settings that the environment does not have.

The file may be another program's: of it only the names of Parley's settings are read, and what cannot be read is
ignored. The client library never reads it.
"""

import io
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values

from parley.settings import Settings, variables

ENV_FILE = ".env"
MAX_ENV_FILE_BYTES = 1024 * 1024


def settings_in(text: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The settings in a file's text that the environment does not set, under whichever of their names."""
    logging.getLogger("dotenv.main").setLevel(logging.ERROR)  # it warns of each line that it cannot read
    # Without interpolation: a password may hold a `$`.
    given = {
        name: value
        for name, value in dotenv_values(stream=io.StringIO(text), interpolate=False).items()
        if value
    }
    found: dict[str, str] = {}
    for field in Settings.model_fields:
        names = variables(field)
        if not any(name in environment for name in names):
            found |= {name: given[name] for name in names if name in given}
    return found


def load_env_file() -> frozenset[str]:
    """Put the settings of the file into this process's environment. Returns their names."""
    try:
        path = Path(ENV_FILE)
        if not path.is_file() or path.stat().st_size > MAX_ENV_FILE_BYTES:
            return frozenset()
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return frozenset()
    found = settings_in(text, os.environ)
    os.environ.update(found)
    return frozenset(found)
