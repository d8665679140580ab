"""The core loads nothing but pydantic."""

import subprocess
import sys
from pathlib import Path

# `parley` itself exports the client, which loads nats. An empty package stands in for it, so that only the core is
# loaded.
PROGRAM = """
import pkgutil, sys, types
sys.modules["parley"] = types.ModuleType("parley")
sys.modules["parley"].__path__ = [sys.argv[1]]
import parley.broker.core as core
for module in pkgutil.iter_modules(core.__path__):
    __import__(f"{core.__name__}.{module.name}")
loaded = {name.partition(".")[0] for name in sys.modules}
assert "pydantic" in loaded
print(*sorted(loaded & {"nats", "aiohttp", "httpx", "ray", "faststream", "cachetools"}))
"""
PACKAGE = Path(__file__).parents[4] / "parley"


def test_the_core_loads_no_broker_and_no_network() -> None:
    command = [sys.executable, "-c", PROGRAM, str(PACKAGE)]
    assert (
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.split() == []
    )
