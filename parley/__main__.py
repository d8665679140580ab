"""The `parley` command, also as `python -m parley`. A client-only install has no command: this says what to install."""

import sys
from importlib.metadata import version


def main() -> None:
    """Run the command. Without the extra `server`: one line on stderr and exit code 2."""
    try:
        from parley import cli
    except ModuleNotFoundError as error:
        if (error.name or "parley").partition(".")[0] == "parley":
            raise  # a part of Parley itself is missing: no extra brings it
        if sys.argv[1:] == ["--version"]:
            print(version("parley-queue"))
            return
        remedy = "pip install 'parley-queue[server]'"
        print(f"parley: this command needs the server extra: {remedy}", file=sys.stderr)
        sys.exit(2)
    cli.main()


if __name__ == "__main__":
    main()
