"""The `parley` command, also as `python -m parley`. A client-only install has no command: this says what to install."""

import os
import signal
import sys
from types import FrameType


def main() -> None:
    """Run the command. Without the extra `server`: one line on stderr and exit code 2."""
    _open_closed_streams()
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    try:
        from parley import cli
    except ModuleNotFoundError as error:
        if (error.name or "parley").partition(".")[0] == "parley":
            raise  # a part of Parley itself is missing: no extra brings it
        if sys.argv[1:] == ["--version"]:
            from importlib.metadata import version

            print(version("parley-queue"))
            return
        remedy = "pip install 'parley-queue[server]'"
        print(f"parley: this command needs the server extra: {remedy}", file=sys.stderr)
        sys.exit(2)
    cli.main()


def _open_closed_streams() -> None:
    """Open those of stdin, stdout and stderr that are closed (`>&-`), on nothing.

    Otherwise a socket would get the number of one, and libuv aborts the process that closes it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number


def _end(number: int, _: FrameType | None) -> None:
    """End at once, until the command handles signals itself: nothing is running yet, and imports take half a second."""
    os._exit(128 + number)


if __name__ == "__main__":
    main()
