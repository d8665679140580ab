"""Why a peer is not measured, and what would have it measured."""

LIBRARIES = "uv sync --frozen --group bench"
REDIS = "apt-get install redis-server"


class Skipped(Exception):
    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason, remedy)
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.reason}; try: {self.remedy}"


def line(peer: str, error: Exception) -> str:
    """One line, whatever went wrong."""
    match error:
        case Skipped():
            why = str(error)
        case ModuleNotFoundError():
            why = str(Skipped(f"{error.name} is not installed", LIBRARIES))
        case _:
            told = " ".join(str(error).split())
            why = str(
                Skipped(
                    f"it did not start ({type(error).__name__}{': ' if told else ''}{told[:200]})", LIBRARIES
                )
            )
    return f"{peer} is skipped: {why}"
