"""`parley settings` on a terminal. What the other commands do is tested with the whole command."""

import io

import pytest
from rich.console import Console

from parley import cli_operating


@pytest.mark.parametrize("columns", [30, 80, 400])
def test_a_terminal_shows_each_setting_whole(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(cli_operating, "out", Console(file=written, width=columns, force_terminal=True))
    monkeypatch.setenv("VLLM_URL", "http://a-long-name.of-a-model-server.in-a-domain.example:8000")
    cli_operating.settings()
    assert "…" not in written.getvalue().replace("SU…", "")  # which is of a meaning
