"""What every command shares: one line for a problem, and the code a command ends with."""

import asyncio
import os
import signal

import pytest
import typer

from parley.cli_common import print_error, run_command


async def forty_two() -> int:
    return 42


async def interrupted() -> int:
    raise KeyboardInterrupt


def test_a_problem_is_one_line_on_stderr_whatever_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    problem = "[bold]no markup[/bold]" + " x" * 200
    print_error(problem.replace("markup", "markup\nof ours"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"parley: {problem.replace('markup', 'markup of ours')}\n"


def test_work_is_run_to_its_end_and_its_result_returned() -> None:
    assert run_command(forty_two()) == 42


def test_an_interrupted_command_ends_with_the_code_that_shells_give_it() -> None:
    with pytest.raises(typer.Exit) as caught:
        run_command(interrupted())
    assert caught.value.exit_code == 130


def test_a_second_hangup_does_not_cut_off_what_the_first_one_began() -> None:
    said = []

    async def hung_up_twice() -> None:
        try:
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.Event().wait()
        finally:
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.sleep(0.1)  # long enough for it to be handled
            said.append("where to find it")

    with pytest.raises(typer.Exit) as caught:
        run_command(hung_up_twice())
    assert (caught.value.exit_code, said) == (129, ["where to find it"])
