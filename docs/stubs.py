"""Writes parley/gateway/grpc_stubs from proto/orchestrator.proto: `python -m docs.stubs` (or `make proto`).

With `--check` nothing is written; the exit code is 1 if a file is stale.
"""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from grpc_tools import protoc

from docs.generate import ROOT

SOURCE = ROOT / "proto"
NAME = "orchestrator"
FOLDER = ROOT / "parley/gateway/grpc_stubs"
# protoc writes an import from the top, and the files are in a package.
_OF_PROTOC = f"import {NAME}_pb2 as"
_OF_PACKAGE = f"from parley.gateway.grpc_stubs import {NAME}_pb2 as"


def compiled() -> Mapping[str, str]:
    """What the files should be, by name. Raises ValueError where the .proto has a mistake; protoc says which."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = [f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")]
        if protoc.main(["protoc", f"-I{SOURCE}", *outputs, str(SOURCE / f"{NAME}.proto")]):
            raise ValueError(f"{NAME}.proto cannot be compiled")
        found = {path.name: path.read_text() for path in Path(folder).iterdir()}
    return {name: text.replace(_OF_PROTOC, _OF_PACKAGE) for name, text in found.items()}


def stale_stubs() -> list[Path]:
    wanted = compiled()
    there = {path.name for path in FOLDER.glob(f"{NAME}_pb2*")}
    return [
        FOLDER / name
        for name in sorted(wanted.keys() | there)
        if name not in there or name not in wanted or (FOLDER / name).read_text() != wanted[name]
    ]


def main() -> int:
    if "--check" in sys.argv[1:]:
        found = stale_stubs()
        for path in found:
            print(f"{path.relative_to(ROOT)} is stale: run `make proto`", file=sys.stderr)
        return 1 if found else 0
    for name, text in compiled().items():
        (FOLDER / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
