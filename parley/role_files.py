"""Instructions of roles from a folder, one Markdown file a role: they replace ours, or add roles."""

import re
from collections.abc import Mapping
from pathlib import Path

from parley.broker.core.messages.base import KIB, MAX_SYSTEM_BYTES
from parley.workers.prompts import BARE

SUFFIX = ".md"
MAX_ROLES = 256
_ROLE = re.compile(r"[A-Z][A-Z0-9_]{0,31}")


def read_roles(folder: Path | None) -> Mapping[str, str]:
    """The instructions by role; none without a folder. A file's name is the role's, in any letter case. Other files and
    hidden ones are left alone. Raises ValueError naming the file."""
    if folder is None:
        return {}
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix == SUFFIX and file.name[0] != ".")
    except OSError as error:
        raise ValueError(f"{folder}: {error.strerror}") from None
    if len(files) > MAX_ROLES:
        raise ValueError(f"{folder} has {len(files)} roles; at most {MAX_ROLES}")
    found: dict[str, str] = {}
    for file in files:
        role = file.stem.upper()
        if not _ROLE.fullmatch(role):
            raise ValueError(f"{file}: the name of a role is 1 to 32 of A-Z 0-9 _, a letter first")
        if role == BARE:
            raise ValueError(f"{file}: {BARE} is the role without instructions")
        if role in found:
            raise ValueError(f"{file}: {role} has two files")
        found[role] = _words(file)
    return found


def _words(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            body = opened.read(MAX_SYSTEM_BYTES + 1)
        words = body.decode("utf-8-sig").strip()
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not UTF-8") from None
    if len(body) > MAX_SYSTEM_BYTES:
        raise ValueError(f"{file} has more than {MAX_SYSTEM_BYTES // KIB} KiB")
    if not words:
        raise ValueError(f"{file} is empty; delete it, or ask with the role {BARE}")
    return words
