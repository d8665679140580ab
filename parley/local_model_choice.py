"""The models that `parley up` and the demo can serve themselves, where VLLM_URL names no server."""

from enum import StrEnum


class LocalModel(StrEnum):
    """Simulated: words drawn at random, at once, in any number. Tiny: a real model of 135 million parameters."""

    SIMULATED = "simulated"
    TINY = "tiny"
