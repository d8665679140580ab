"""Writes the parts of the documents that come from the code: `python -m docs.generate` (or `make docs`).

A generated part stands between `<!-- begin NAME -->` and `<!-- end NAME -->`. `--check` only tells whether anything is stale.
"""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from parley.broker.core.lifecycle import ENDINGS, MOVES, State
from parley.settings import table

ROOT = Path(__file__).parent.parent


def state_diagram() -> str:
    """Every legal move, as Mermaid draws it."""
    lines = ["```mermaid", "stateDiagram-v2"]
    for (start, cause), ends in MOVES.items():
        lines += [f"    {start or '[*]'} --> {end}: {cause}" for end in sorted(ends)]
    lines += [f"    {state} --> [*]" for state in State if state in ENDINGS]
    return "\n".join([*lines, "```"])


PARTS: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "README.md": {"settings": table},
    "docs/architecture.md": {"states": state_diagram},
}


def renewed(text: str, parts: Mapping[str, Callable[[], str]]) -> str:
    """`text` with its generated parts made anew. Raises ValueError when a part's marks are missing."""
    for name, make in parts.items():
        marks = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        if not marks.search(text):
            raise ValueError(f"no marks for {name}")
        text = marks.sub(lambda found, made=make(): f"{found[1]}{made}\n{found[2]}", text)  # type: ignore[misc]
    return text


def main() -> int:
    stale = []
    for path, parts in PARTS.items():
        file = ROOT / path
        before = file.read_text()
        after = renewed(before, parts)
        if after != before:
            stale.append(path)
            if "--check" not in sys.argv:
                file.write_text(after)
    for path in stale:
        print(f"{path}: {'stale, run make docs' if '--check' in sys.argv else 'renewed'}")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
