"""What the documents say of the code is what the code says: generated parts are fresh, and every file they name
exists."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.generate import ROOT, renewed, stale
from parley.broker.core.messages import ErrorType
from parley.broker.jetstream import topology

DOCUMENTS = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *ROOT.glob("docs/**/*.md"),
        ROOT / "examples/README.md",
    ]
)
# Folders whose files documents name in backticks; anything else in backticks is no path.
FOLDERS = "benchmarks|broker|docs|examples|handlers|helm|monitoring|parley|tests|workers|\\.ci"
# Made by `make aims`, or by a user.
NOT_IN_THE_REPOSITORY = {"benchmarks/results", "benchmarks/results/curves.json"}


def anchors(text: str) -> set[str]:
    """The anchors GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def named_paths(text: str) -> Iterator[str]:
    for words in re.findall(r"`([^`\n]+)`", text):
        if re.fullmatch(rf"(?:{FOLDERS})/[\w./-]*", words):
            yield words
    for module in re.findall(r"python -m ((?:docs|tests|benchmarks|parley)[\w.]*)", text):
        yield module.replace(".", "/")


def test_no_generated_part_is_stale() -> None:
    assert [str(file.relative_to(ROOT)) for file in stale()] == [], "run `make docs`"


def test_a_part_is_replaced_and_the_rest_is_left_alone() -> None:
    text = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n"
    assert renewed(text, {"x": lambda: r"new \1"}) == "a\n<!-- begin x -->\nnew \\1\n<!-- end x -->\nb\n"
    with pytest.raises(ValueError, match="no marks for y"):
        renewed(text, {"y": lambda: ""})


# A panel, as the gateway offers it: `parley/judge-5`.
PANEL = re.compile(r"parley/(NAME|[a-z]+-[0-9])")


def test_the_contract_has_every_stored_subject_and_every_error_type() -> None:
    contract = (ROOT / "docs/contract.md").read_text()
    for stream in topology.streams():
        assert f"| `{stream.name}` |" in contract
    for kind in ErrorType:
        assert f"| `{kind}` |" in contract


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_a_document_names_exists(document: Path) -> None:
    text = document.read_text()
    for path in set(named_paths(text)) - NOT_IN_THE_REPOSITORY:
        if PANEL.fullmatch(path):
            continue
        assert (ROOT / path).exists() or (ROOT / f"{path}.py").exists(), path
    for link in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", text):
        target, anchor = link
        if target.startswith("http"):
            continue
        file = document.parent / target if target else document
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file.read_text()), f"{target}#{anchor}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_is_not_wider_than_120_columns(document: Path) -> None:
    text = re.sub(
        r"<!-- begin (.*) -->.*<!-- end \1 -->",
        lambda part: "\n" * part[0].count("\n"),
        document.read_text(),
        flags=re.DOTALL,
    )
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        inside ^= line.startswith("```")
        free = inside or line.startswith(("|", "!", "```", "<!--"))
        assert free or len(line) <= 120, f"line {number} has {len(line)} columns"
