"""Panels by their names, and those of an operator's file."""

from pathlib import Path

import pytest

from parley.gateway.panels import panel_of_size, read_panels


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("dev-3", {"num_agents": 3, "select": "judge", "role": "DEV"}),
        ("data_science-2", {"num_agents": 2, "select": "judge", "role": "DATA_SCIENCE"}),
        ("judge-5", {"num_agents": 5, "select": "judge", "role": "NONE"}),
        ("judge-1", {"num_agents": 1, "select": "none", "role": "NONE"}),
        ("vote-7", {"num_agents": 7, "select": "vote", "role": "NONE", "answer_key": {"last": "line"}}),
    ],
)
def test_a_name_tells_the_kind_and_the_size(name: str, fields: dict[str, object]) -> None:
    panel = panel_of_size(name)
    assert panel is not None
    assert panel.fields == fields


@pytest.mark.parametrize("name", ["", "dev", "dev-", "dev-0", "dev-1000", "-3", "Dev-3", "dev-3 ", "dev-３"])
def test_other_names_are_no_panels(name: str) -> None:
    assert panel_of_size(name) is None


def written(folder: Path, text: str) -> Path:
    path = folder / "panels.toml"
    path.write_text(text)
    return path


def test_a_file_has_panels_of_its_own(tmp_path: Path) -> None:
    text = '[panels.short]\ndescription = "one word"\nnum_agents = 2\nmodels = ["a", "b"]\nselect = "judge"\n'
    panel = read_panels(written(tmp_path, text))["short"]
    assert (panel.description, dict(panel.fields)) == (
        "one word", {"num_agents": 2, "models": ["a", "b"], "select": "judge"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has tables"),
        ("x = 1", "has tables"),
        ("[panels]\nshort = 1", "panels.short: a table"),
        ('[panels."a b"]\nnum_agents = 2', "panels.a b: a table under a name"),
        ("[panels.short]\nnum_agents = 0", "panels.short: num_agents"),
        ('[panels.short]\ntask_description = "x"', "panels.short: task_description: no field of a panel"),
        ("[panels.short]\nagents = 3", "panels.short: agents: no field of a panel"),
        ("[panels", "is no TOML"),
    ],
)
def test_a_mistake_is_told_by_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"panels\.toml") as told:
        read_panels(written(tmp_path, text))
    assert said in str(told.value)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file"):
        read_panels(tmp_path / "none.toml")
