"""Rules about the source text: which package imports which, names that are used once, words that no name uses."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import SLOW

ROOT = Path(__file__).parents[1]
PRODUCT = ("broker", "workers", "handlers", "monitoring", "parley")
# Metaphors for which the field has a word.
BANNED = ("crew", "lookout", "switchboard", "desk", "sight", "company", "pulse", "knock", "bury")


def sources(*folders: str) -> Iterator[tuple[Path, ast.Module]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            # parley/ holds a link to each other folder of the product.
            if not any(parent.is_symlink() for parent in path.parents):
                yield path.relative_to(ROOT), ast.parse(path.read_text())


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield f"{node.module}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def below(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


# Where a text says that a name is in a file: `react` (reactions.py).
_IS_IN = re.compile(r"`(\w+)(?:\([^`]*\))?`\s+(?:\((\w+\.py)\)|(?:in|of)\s+`([\w/]+\.py)`)")


def test_a_name_that_a_text_places_in_a_file_is_there() -> None:
    found = []
    texts = [path for path, _ in sources(*PRODUCT, "tests", "benchmarks", "examples")]
    for text in (*texts, *(path.relative_to(ROOT) for path in ROOT.glob("docs/**/*.md"))):
        for name, file, place in _IS_IN.findall((ROOT / text).read_text()):
            wanted = [path for path in texts if f"/{path}".endswith(f"/{place or file}")]
            defined = rf"(?m)^\s*(?:(?:async )?def |class ){name}\b|^\s*{name}\s*(?::[^=\n]*)?="
            if not any(re.search(defined, (ROOT / path).read_text()) for path in wanted):
                found.append(f"{text}: {name} is not in {place or file}")
    assert found == []


def test_benchmarks_import_of_the_tests_only_the_rig() -> None:
    found = [
        f"{path}: {module}"
        for path, tree in sources("benchmarks")
        for module in imported(tree)
        if below(module, "tests") and module != "tests" and not below(module, "tests.rig")
    ]
    assert found == []


def test_only_the_benchmarks_own_tests_import_benchmarks() -> None:
    found = [
        f"{path}: {module}"
        for path, tree in sources("tests")
        for module in imported(tree)
        if below(module, "benchmarks") and not path.is_relative_to("tests/mirror/benchmarks")
    ]
    assert found == []


def test_the_rig_imports_no_other_test() -> None:
    found = [
        f"{path}: {module}"
        for path, tree in sources("tests/rig")
        for module in imported(tree)
        if below(module, "tests") and module != "tests" and not below(module, "tests.rig")
    ]
    assert found == []


def test_every_slow_test_exists() -> None:
    for name in SLOW:
        path, _, test = name.partition("::")
        if path.endswith(".py"):
            assert f"def {test}" in (ROOT / path).read_text(), name


def test_no_two_classes_of_the_product_have_the_same_name() -> None:
    names = Counter(
        node.name for _, tree in sources(*PRODUCT) for node in tree.body if isinstance(node, ast.ClassDef)
    )
    assert {name: count for name, count in names.items() if count > 1 and not name.startswith("_")} == {}


@pytest.mark.parametrize("folder", [*PRODUCT, "tests", "benchmarks", "examples"])
def test_no_function_or_class_is_named_with_a_metaphor(folder: str) -> None:
    found = [
        f"{path}:{node.lineno}: {node.name}"
        for path, tree in sources(folder)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and set(BANNED) & set(re.sub(r"([A-Z])", r"_\1", node.name).lower().split("_"))
    ]
    assert found == []
