"""A model that answers by a script, and a clock that only sleeping and calling move."""

import asyncio
from collections.abc import Sequence

from parley.broker.core.messages import ErrorType, Usage
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.model_client import PROBE_MESSAGES, ChatRequest
from parley.workers.model.model_error import ModelError
from parley.workers.model.responses import Completion

START = 1_800_000_000.0
THREE = tuple(Endpoint(f"http://gpu-{name}:8000") for name in "abc")
DONE = Completion(
    "an answer", "stop", "some-model", Usage(prompt_tokens=9, completion_tokens=2, total_tokens=11)
)


class Clock:
    """Time that passes only when a caller sleeps or a call takes some."""

    def __init__(self) -> None:
        self.time = START
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        for _ in range(10):  # other tasks run first as far as they can without time; they may end this sleep
            await asyncio.sleep(0)
        self.slept.append(seconds)
        self.time += seconds


class ScriptedModel:
    """Answers as its script says, and for ever with its last step.

    Every call takes `call_seconds`. Probes are recorded apart.
    """

    def __init__(
        self, clock: Clock, script: Sequence[Completion | ModelError], call_seconds: float = 0.0
    ) -> None:
        self._clock = clock
        self._script = list(script)
        self._call_seconds = call_seconds
        self.calls: list[tuple[Endpoint, float, float]] = []
        self.probes: list[tuple[Endpoint, float, float]] = []
        self.requests: list[ChatRequest] = []

    async def complete(self, endpoint: Endpoint, request: ChatRequest, *, seconds: float) -> Completion:
        kept = self.probes if request.messages == PROBE_MESSAGES else self.calls
        kept.append((endpoint, self._clock.now(), seconds))
        self.requests.append(request)
        self._clock.time += self._call_seconds
        step = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        if isinstance(step, ModelError):
            raise step
        return step


def trouble(kind: ErrorType = ErrorType.SERVER_ERROR, retry_after: float | None = None) -> ModelError:
    return ModelError(kind, f"{kind.value} it is", retry_after)
