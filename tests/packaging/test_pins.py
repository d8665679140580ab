"""What installs Parley is pinned: uv by the hashes of its files, and what builds the package by version."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_uv_is_one_version_with_hashes_wherever_it_is_installed() -> None:
    pinned = (ROOT / ".ci" / "uv.txt").read_text()
    assert re.match(r"uv==[0-9.]+ \\\n(    --hash=sha256:[0-9a-f]{64}( \\)?\n)+$", pinned)
    for installer in (".ci/uv", "helm/Dockerfile"):
        text = (ROOT / installer).read_text()
        assert "--require-hashes -r .ci/uv.txt" in text
        assert text.count("pip install") == text.count("--require-hashes") or "$options" in text


def test_the_build_backend_and_what_it_brings_are_pinned() -> None:
    (backend,) = PROJECT["build-system"]["requires"]
    constraints = PROJECT["tool"]["uv"]["build-constraint-dependencies"]
    assert re.fullmatch(r"hatchling==[0-9.]+", backend)
    assert backend in constraints
    assert all(re.fullmatch(r"[a-z-]+==[0-9.]+", constraint) for constraint in constraints)
