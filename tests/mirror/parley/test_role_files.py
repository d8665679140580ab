"""Instructions of roles from a folder: what counts as one, and what is wrong with a file, by its name."""

from pathlib import Path

import pytest

from parley.broker.core.errors import SettingsError
from parley.role_files import read_roles
from parley.settings import load

WRONG = [
    ("no role.md", b"x", "no role.md: the name of a role is 1 to 32 of A-Z 0-9 _, a letter first"),
    ("none.md", b"x", "none.md: NONE is the role without instructions"),
    ("qa.md", b" \n", "qa.md is empty; delete it, or ask with the role NONE"),
    ("qa.md", b"\xff", "qa.md is not UTF-8"),
    ("qa.md", b"x" * 65_537, "qa.md has more than 64 KiB"),
]


def test_each_markdown_file_is_a_role(tmp_path: Path) -> None:
    (tmp_path / "qa.md").write_text("\ufeff# You test.\n\nAlways.\n")
    (tmp_path / "LAWYER_2.md").write_text("You know the law.")
    (tmp_path / "README.txt").write_text("not a role")
    (tmp_path / "..data").mkdir()  # as Kubernetes mounts a ConfigMap
    (tmp_path / ".hidden.md").write_text("x")
    assert read_roles(tmp_path) == {"QA": "# You test.\n\nAlways.", "LAWYER_2": "You know the law."}
    assert read_roles(None) == {}


@pytest.mark.parametrize(("name", "body", "problem"), WRONG)
def test_a_file_that_is_no_role_is_named_before_anything_starts(
    name: str, body: bytes, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(body)
    monkeypatch.setenv("PARLEY_ROLES_DIR", str(tmp_path))
    with pytest.raises(SettingsError) as caught:
        load()
    (told,) = caught.value.problems
    assert told.startswith("PARLEY_ROLES_DIR: ")
    assert f"{problem} (it is " in told


def test_a_folder_that_cannot_be_read_and_a_role_with_two_files_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARLEY_ROLES_DIR", str(tmp_path / "none"))
    with pytest.raises(SettingsError, match="none: No such file or directory"):
        load()
    (tmp_path / "qa.md").write_text("x")
    (tmp_path / "QA.md").write_text("x")
    if len(list(tmp_path.iterdir())) == 2:  # not where letter case does not count
        with pytest.raises(ValueError, match=r"qa\.md: QA has two files"):
            read_roles(tmp_path)
