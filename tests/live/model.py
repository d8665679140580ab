"""The model that vLLM serves here, written by the Python that has vLLM."""

import subprocess
from pathlib import Path

from tests.live.environment import CHECKOUT
from tests.live.server import Install

SCRIPT = Path(__file__).parent / "make_model.py"
# What its tokenizer learns from: any English and some code.
TEXTS = ("README.md", "docs/*.md", "workers/prompts.py", "LICENSE")


def written(python: Path, folder: Path) -> Install:
    """In `folder`/model."""
    home = folder / "model"
    home.mkdir()
    texts = [str(path) for pattern in TEXTS for path in sorted(CHECKOUT.glob(pattern))]
    subprocess.run([python, SCRIPT, home, *texts], check=True, timeout=60)
    return Install(python, home)
