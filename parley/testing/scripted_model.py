"""The model of a test: it says what the test wants, fails as a test wants, and tells what it was asked."""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from parley.workers.simulator.behaviour import FAULTS, Behaviour
from parley.workers.simulator.server import SimulatedAnswer, Simulator

MODEL = "scripted-model"


@dataclass(frozen=True, slots=True)
class Asked:
    """One call of an agent or a judge. `messages`: as the model got them. `body`: the whole call."""

    messages: Sequence[Mapping[str, Any]]
    body: Mapping[str, Any]

    @property
    def question(self) -> str:
        """The words of the last message."""
        content = self.messages[-1].get("content", "")
        return content if isinstance(content, str) else str(content)

    @property
    def is_of_judge(self) -> bool:
        """Whether an order of answers is asked for."""
        schema = (self.body.get("response_format") or {}).get("json_schema", {}).get("schema", {})
        return "ranking" in schema.get("properties", {})


class ScriptedModel(Simulator):
    """Safe to use from the test's thread while it answers in another."""

    def __init__(self) -> None:
        super().__init__(_quick())
        self._lock = threading.Lock()
        self._asked: list[Asked] = []
        self._texts: deque[str] = deque()
        self._by: Callable[[Asked], str] | None = None

    # ── what a test says ──────────────────────────────────────────────────────────────────────────────────────────

    def answer(self, *texts: str) -> None:
        """The next answers, one each; the last one also all that follow."""
        with self._lock:
            self._texts, self._by = deque(texts), None

    def answer_with(self, by: Callable[[Asked], str]) -> None:
        """Each answer is what `by` makes of its call."""
        with self._lock:
            self._by = by

    def fail(self, *faults: str) -> None:
        """What the next calls meet, in order: one of `parley.testing.FAULTS` each, or "ok"."""
        if unknown := sorted(set(faults) - {*FAULTS, "ok"}):
            raise ValueError(f"no such fault: {', '.join(unknown)}; there are {', '.join(FAULTS)}")
        self._faults.restart_script(faults)

    def fail_always(self, fault: str) -> None:
        """What every call meets from now on."""
        if fault not in FAULTS:
            raise ValueError(f"no such fault: {fault}; there are {', '.join(FAULTS)}")
        self.behaviour = replace(self.behaviour, faults={fault: 1.0})

    def take(self, seconds: float) -> None:
        """How long each answer takes."""
        self.behaviour = replace(self.behaviour, latency_ms=1000 * seconds)

    @property
    def asked(self) -> list[Asked]:
        """Every call so far, in order, also those that failed."""
        with self._lock:
            return list(self._asked)

    def reset(self) -> None:
        """As new."""
        with self._lock:
            self._asked, self._texts, self._by = [], deque(), None
        self.behaviour = _quick()
        self._faults.restart_script(())

    # ── what the server does ──────────────────────────────────────────────────────────────────────────────────────

    def _record(self, request: Any, body: Mapping[str, Any]) -> None:
        super()._record(request, body)
        with self._lock:
            self._asked.append(Asked(body["messages"], body))

    def _answer(
        self, body: Mapping[str, Any], messages: Sequence[Mapping[str, str]], fault: str | None
    ) -> SimulatedAnswer:
        answer = super()._answer(body, messages, fault)
        text = self._text(Asked(messages, body))
        return answer if text is None else replace(answer, words=[text])

    def _text(self, asked: Asked) -> str | None:
        """The scripted words; None for what the simulator makes up, as a judge's ballot."""
        with self._lock:
            if self._by is not None:
                return self._by(asked)
            if asked.is_of_judge or not self._texts:
                return None
            return self._texts.popleft() if len(self._texts) > 1 else self._texts[0]


def _quick() -> Behaviour:
    return Behaviour(model=MODEL, latency_ms=1.0)
