"""A service's intake and aggregate in a process that ends, as by the kernel's OOM killer, whenever it meets a message
with the word `deadly`, or composes the ending of a deliberation named so. Run by `test_deadly_messages.py`."""

import asyncio
import os
import signal
from typing import Any

from parley.app import service
from parley.broker.core.tally import Tally
from parley.handlers.delivery import Delivery
from parley.handlers.ending_publisher import EndingPublisher
from parley.handlers.routes import Part
from parley.settings import load

WORD = "deadly"
_payload, _compose = Delivery.payload, EndingPublisher._compose


def _read(self: Delivery[Any], kind: Any) -> Any:
    if WORD.encode() in self.data and "deadline" not in self.msg.subject:
        os.kill(os.getpid(), signal.SIGKILL)
    return _payload(self, kind)


async def _composed(self: EndingPublisher, tally: Tally) -> Any:
    if tally.metadata.get("ending") == WORD[::-1]:
        os.kill(os.getpid(), signal.SIGKILL)
    return await _compose(self, tally)


async def main() -> None:
    Delivery.payload = _read  # type: ignore[method-assign]  # this process is made to die
    EndingPublisher._compose = _composed  # type: ignore[method-assign]
    async with service(load(), {Part.INTAKE, Part.AGGREGATE}):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
