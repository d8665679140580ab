"""How the simulated server behaves: its speed, its limits, and which requests fail in which way. No I/O."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

DEFAULT_MODEL = "simulated-model"
# Every fault by name.
FAULTS = (
    "429",  # overloaded, without Retry-After
    "429-retry-after",  # overloaded, with Retry-After: 1
    "500",
    "503",
    "400",
    "401",  # `error` is a plain string, as in vLLM's answer to a missing key
    "404",
    "context",  # 400, as for a prompt longer than the model allows
    "hang",  # the headers never come
    "drip",  # one byte a second, for ever
    "reset",  # the connection is cut
    "null",  # `content` is null
    "length",  # cut by max_tokens: finish_reason "length"
    "truncated",  # the body ends in the middle
    "garbage",  # 200, but not JSON
    "stream-error",  # an error event inside a 200 stream, and [DONE] after it
)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a simulated server does. A token is a word here."""

    model: str = DEFAULT_MODEL
    # The bearer token that requests must carry; None: none is asked for.
    api_key: str | None = None
    # Time before the first token.
    latency_ms: float = 300.0
    # Speed after the first token; 0: all tokens at once.
    tokens_per_second: float = 0.0
    # The longest answer; the shortest has half of it.
    tokens: int = 48
    # How many answers are made at a time, as vLLM's `max_num_seqs`; further requests wait in order. 0: any number.
    slots: int = 0
    # Tokens of prompt and answer together.
    max_model_len: int = 32_768
    # The share of requests, 0 to 1, that meets each fault.
    faults: Mapping[str, float] = field(default_factory=dict)
    # What the next requests meet, a fault or "ok" each, before `faults` applies.
    script: Sequence[str] = ()
    # Another seed gives other answers and other requests that fail.
    seed: int = 0


class FaultPicker:
    """Decides which fault each request meets. The same seed picks the same requests."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._random = random.Random(behaviour.seed)
        # The steps of the script that no request has met yet.
        self._script = list(behaviour.script)

    def restart_script(self, script: Sequence[str]) -> None:
        self._script = list(script)

    def pick(self, faults: Mapping[str, float]) -> str | None:
        """The next request's fault, or None for an ordinary answer."""
        if self._script:
            step = self._script.pop(0)
            return None if step == "ok" else step
        roll = self._random.random()
        for name, share in faults.items():
            if roll < share:
                return name
            roll -= share
        return None
