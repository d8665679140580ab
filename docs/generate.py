"""Writes the parts of the documents that come from the code: `python -m docs.generate` (or `make docs`).

A generated part stands between `<!-- begin NAME -->` and `<!-- end NAME -->`. With `--check` nothing is written; the
exit code is 1 if a part is stale.
"""

import ast
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from docs import contract
from parley.broker.core.states_and_moves import ENDINGS, MOVES, State
from parley.settings import table

ROOT = Path(__file__).parent.parent


def state_diagram() -> str:
    """Every legal move, as a Mermaid diagram."""
    lines = ["```mermaid", "stateDiagram-v2"]
    for (start, cause), ends in MOVES.items():
        lines += [f"    {start or '[*]'} --> {end}: {cause}" for end in sorted(ends)]
    lines += [f"    {state} --> [*]" for state in State if state in ENDINGS]
    return "\n".join([*lines, "```"])


# What each folder holds, in the order in which a newcomer should read them.
FOLDERS: Mapping[str, str] = {
    "broker": "what travels, what it means, and the NATS it travels over",
    "broker/core": "the meaning of a deliberation. Pure: no I/O, clock, randomness or NATS",
    "broker/core/messages": "the payloads",
    "broker/jetstream": "NATS JetStream. Knows streams and messages, and no handlers",
    "handlers": "one message in, effects out",
    "workers": "one agent's work, from a job to its stored outcome",
    "workers/model": "the model servers: calls, answers, breakers, readiness",
    "workers/pool": "where workers run: Ray actors, or this process",
    "workers/simulator": "a model server without a model",
    "workers/tiny_model": "a real model, very small",
    "monitoring": "what an operator looks at",
    "parley": "the front door: the Python client, the command, settings, and the wiring",
}


def files() -> str:
    """Each file of the product with the first sentence of its docstring."""
    lines = []
    for folder, meaning in FOLDERS.items():
        found = sorted(path for path in (ROOT / folder).glob("*.py") if path.name[0] != "_")
        if not found:
            continue
        lines += ["", f"**{folder}/**: {meaning}.", ""]
        lines += [f"- [{path.name}](../{folder}/{path.name}): {_purpose(path)}" for path in found]
    return "\n".join(lines[1:])


def _purpose(path: Path) -> str:
    paragraph = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.?]) ", paragraph)[0].rstrip(".")


PARTS: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "README.md": {"settings": table},
    "docs/architecture.md": {"files": files, "states": state_diagram},
    "docs/contract.md": {
        "subjects": contract.subjects,
        "streams": contract.streams,
        "consumers": contract.consumers,
        "requests": contract.requests,
        "endings": contract.endings,
        "status": contract.status,
        "service": contract.service,
        "outcomes": contract.outcomes,
        "work": contract.work,
        "headers": contract.headers,
        "msg-ids": contract.msg_ids,
        "errors": contract.errors,
    },
}


def renewed(text: str, parts: Mapping[str, Callable[[], str]]) -> str:
    """`text` with its generated parts made anew. Raises ValueError when a part's marks are missing."""
    for name, make in parts.items():
        marks = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        if not marks.search(text):
            raise ValueError(f"no marks for {name}")
        text = marks.sub(lambda found, made=make(): f"{found[1]}{made}\n{found[2]}", text)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    return text


def stale() -> dict[Path, str]:
    """Each file whose generated parts differ from the code, and its text made anew."""
    found = {}
    for path, parts in PARTS.items():
        file = ROOT / path
        before = file.read_text()
        after = renewed(before, parts)
        if after != before:
            found[file] = after
    return found


def main() -> int:
    check = "--check" in sys.argv
    found = stale()
    for file, text in found.items():
        if not check:
            file.write_text(text)
        print(f"{file.relative_to(ROOT)}: {'stale, run make docs' if check else 'renewed'}")
    return 1 if found and check else 0


if __name__ == "__main__":
    sys.exit(main())
