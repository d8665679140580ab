"""The model's process: what it is told fits the engine that is installed, and without one it says what to install."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from parley.workers.tiny_model import __main__ as tiny_model_main
from parley.workers.tiny_model.__main__ import apply, main
from parley.workers.tiny_model.installation import missing_part


def test_values_are_set_at_dotted_names_that_exist() -> None:
    parameters = SimpleNamespace(port=1, model=SimpleNamespace(path=""))
    apply(parameters, {"port": 2, "model.path": "m.gguf"})
    assert (parameters.port, parameters.model.path) == (2, "m.gguf")
    with pytest.raises(AttributeError, match="prot"):
        apply(parameters, {"prot": 3})


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_model_main, "missing_part", lambda: "xllamacpp")
    with pytest.raises(RuntimeError, match=r"xllamacpp is not installed: pip install 'parley-queue\[tiny\]'"):
        main(["--port", "0"])


def test_the_installed_engine_has_every_parameter() -> None:
    missing = missing_part()
    if missing is not None:
        pytest.skip(f"no tiny model here: {missing} is not installed")
    # In a process of its own: the engine's threads and its OpenMP stay out of the tests'.
    script = (
        "import sys; from pathlib import Path; import xllamacpp; "
        "from parley.workers.tiny_model.__main__ import apply; "
        "from parley.workers.tiny_model.engine_parameters import engine_parameters; "
        "apply(xllamacpp.CommonParams(), engine_parameters(Path('m.gguf'), 0, 2))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
