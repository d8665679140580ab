"""An earlier version of Parley beside this one: its code from git, its processes with this environment's libraries."""

import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The last commit of 0.1.0.
OLD = "e3b707b"


def unpack(folder: Path) -> str | None:
    """Put 0.1.0 into `folder`. Returns why that can't be done here, or None."""
    command = ("git", "archive", "--format=tar", OLD)
    try:
        archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        return f"0.1.0 is not to be had: `{' '.join(command)}` failed ({error}); a full clone has it"
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return None


def serve(parts: str, old: Path | None = None) -> tuple[list[str], dict[str, str]]:
    """The command that runs `parts`, and its environment: of the version in `old`, or of this one."""
    # -P: modules come from PYTHONPATH and the installation only, not from the working directory.
    command = [sys.executable, "-P", "-m", "parley", "serve", "--parts", parts]
    return command, {"PYTHONPATH": str(old)} if old is not None else {}
