"""The command: which scenarios run, with what, and how it ends."""

import json
from pathlib import Path

import pytest

from benchmarks import scale
from benchmarks.targets import Found, Target


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Scenarios that come to their count at once: at most 10 is met."""
    found: list[tuple[str, int]] = []

    def made(name: str, usual: int) -> None:
        async def scenario(count: int) -> Found:
            found.append((name, count))
            return Found(name, "at once", [Target("count", count, 10)])

        monkeypatch.setitem(scale.SCENARIOS, name, (scenario, usual))

    for place, name in enumerate(list(scale.SCENARIOS)):
        made(name, place)
    return found


def test_all_run_with_what_is_usual(asked: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]) -> None:
    assert scale.main([]) == 0
    assert asked == [("flight", 0), ("backlog", 1), ("startup", 2), ("busy", 3)]
    assert "MISSED" not in capsys.readouterr().out


def test_a_missed_target_ends_with_1_and_is_written(asked: list[tuple[str, int]], tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    assert scale.main(["busy", "--count", "11", "--json", str(path)]) == 1
    assert asked == [("busy", 11)]
    (told,) = json.loads(path.read_text())
    assert (told["scenario"], told["met"], told["targets"][0]["value"]) == ("busy", False, 11)


@pytest.mark.parametrize("arguments", [["startup", "--count", "0"], ["--count", "5"], ["everything"]])
def test_what_makes_no_sense_is_refused(arguments: list[str], asked: list[tuple[str, int]]) -> None:
    with pytest.raises(SystemExit) as left:
        scale.main(arguments)
    assert (left.value.code, asked) == (2, [])
