"""Write the model that vLLM serves in tests, with the Python that has vLLM."""

import subprocess
from pathlib import Path

from tests.rig.vllm.install import CHECKOUT
from tests.rig.vllm.server import Install

SCRIPT = Path(__file__).parent / "make_model.py"
# Its tokenizer learns from these: English and some code.
TEXTS = ("README.md", "docs/*.md", "workers/prompts.py", "LICENSE")


def written(python: Path, folder: Path, *, ends: bool = False) -> Install:
    """Write the model to `folder`/model. `ends`: a token of it ends an answer."""
    home = folder / "model"
    home.mkdir()
    texts = [str(path) for pattern in TEXTS for path in sorted(CHECKOUT.glob(pattern))]
    options = ["--ends"] if ends else []
    subprocess.run([python, SCRIPT, *options, home, *texts], check=True, timeout=60)
    return Install(python, home)
