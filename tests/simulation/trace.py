"""What happened, step by step, to be told when an invariant breaks."""

import hashlib

from tests.simulation.loop import BEGINNING


class Trace:
    def __init__(self) -> None:
        self._steps: list[tuple[float, str, str, str]] = []

    def add(self, at: float, who: str, what: str, about: str = "") -> None:
        self._steps.append((at, who, what, about))

    def __len__(self) -> int:
        return len(self._steps)

    def told(self, last: int | None = None) -> str:
        steps = self._steps if last is None else self._steps[-last:]
        left_out = len(self._steps) - len(steps)
        lines = [f"      … {left_out} steps before"] if left_out else []
        return "\n".join(
            [
                *lines,
                *(
                    f"{at - BEGINNING:11.4f}  {who:<10} {what} {about}".rstrip()
                    for at, who, what, about in steps
                ),
            ]
        )

    @property
    def digest(self) -> str:
        """The same for the same history: what a replay is held to."""
        return hashlib.blake2b(repr(self._steps).encode(), digest_size=8).hexdigest()
