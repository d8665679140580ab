"""The environment of what is measured, and the limit of files."""

import resource

import pytest

from benchmarks.parts import plain_environment, raise_file_limit


def test_no_setting_of_the_caller_reaches_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NATS_URL", "RAY_ADDRESS", "VLLM_URL", "PARLEY_POOL", "PARLEY_NATS_URL"):
        monkeypatch.setenv(name, "elsewhere")
    monkeypatch.setenv("EDITOR", "ed")
    found = plain_environment(PARLEY_POOL="ray")
    assert found["EDITOR"] == "ed"
    assert {
        name: value for name, value in found.items() if "elsewhere" in value or name.startswith("PARLEY")
    } == {"PARLEY_POOL": "ray"}


def test_as_many_files_as_the_machine_allows() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        assert raise_file_limit() == before[1] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
