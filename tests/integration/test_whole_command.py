"""`parley demo` and `parley up` as a user runs them: real processes, real Ray, an empty home."""

import os
import re
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from parley.workers.tiny_model import MODEL_NAME
from parley.workers.tiny_model.installation import missing_part
from tests import present
from tests.harness import PATIENCE_SECONDS, until
from tests.rig.proc import descendants

PARLEY = str(Path(sysconfig.get_path("scripts")) / "parley")
# A model on a busy machine of two cores.
PATIENT_SECONDS = 115
RAY_AGENTS = re.compile("ray::(DashboardAgent|RuntimeEnvAgent)")
LOOPBACK = re.compile(r"^(127\.|\[::1\]|\[::ffff:127\.)")


def environment(home: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PARLEY_", "RAY_"))}
    return {
        **kept,
        "HOME": str(home),
        "PARLEY_HTTP_PORT": "0",
        "PARLEY_GATEWAY_PORT": "0",
        "PARLEY_GATEWAY_GRPC_PORT": "0",
        "XDG_STATE_HOME": str(home / "state"),
    }


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def alive(pids: set[int]) -> set[int]:
    def runs(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False

    return {pid for pid in pids if runs(pid)}


def listening(pids: set[int]) -> set[str]:
    """TCP addresses on which these processes listen."""
    inodes = set()
    for pid in pids:
        try:
            links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        inodes |= {link[8:-1] for link in links if link.startswith("socket:[")}
    addresses = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                addresses.add(_address(fields[1].partition(":")[0]))
    return addresses


def _address(raw: str) -> str:
    if len(raw) == 8:
        return ".".join(str(byte) for byte in reversed(bytes.fromhex(raw)))
    words = [bytes(reversed(bytes.fromhex(raw[start : start + 8]))).hex() for start in range(0, 32, 8)]
    if words[:3] == ["00000000", "00000000", "0000ffff"]:
        return "[::ffff:" + ".".join(str(byte) for byte in bytes.fromhex(words[3])) + "]"
    return "[::1]" if words == ["00000000", "00000000", "00000000", "00000001"] else f"[{''.join(words)}]"


@contextmanager
def up(home: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [PARLEY, "up", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=environment(home),
    )  # fmt: skip
    try:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if "Ctrl-C stops" in line:
                break
        else:
            raise AssertionError(f"parley up ended: {said}")
        # This is no terminal: a supervisor's journal would keep what is printed.
        token = home / "state" / "parley" / "nats" / "token"
        assert token.read_text() not in said
        assert str(token) in said.replace("\n", "")
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        present(process.stdout).close()


@pytest.mark.ray
def test_the_demo_shows_three_simulated_answers_and_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [PARLEY, "demo", "--model", "simulated"], capture_output=True, text=True, timeout=100,
        env={**environment(tmp_path), "COLUMNS": "120"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for agent in ("agent-dev-001", "agent-dev-002", "agent-dev-003"):
        assert agent in done.stdout
    assert "3 of 3 agents answered" in done.stdout
    assert "simulated: no model has read your question" in done.stdout
    assert "VLLM_URL=" in done.stdout
    assert done.stderr == ""


@pytest.mark.ray
def test_the_demo_asks_a_real_model_whose_judges_choose_an_answer(tmp_path: Path) -> None:
    missing = missing_part()
    if missing is not None:
        pytest.skip(f"no tiny model here: {missing} is not installed")
    done = subprocess.run(
        [PARLEY, "demo"], capture_output=True, text=True, timeout=PATIENT_SECONDS,
        env={**environment(tmp_path), "COLUMNS": "240"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for agent in ("agent-teacher-001", "agent-teacher-002", "agent-teacher-003"):
        assert f"{agent} ({MODEL_NAME}, " in done.stdout
    assert "3 of 3 agents answered" in done.stdout
    # So small a model sometimes writes no ballot, twice; a majority of them is a choice.
    chosen = r"agent-teacher-00[123]: (tied with .*; )?won \d+/\d+ of its comparisons; .*[23] of 3 ballots"
    assert [line for line in done.stdout.splitlines() if re.match(chosen, line)], done.stdout.splitlines()
    assert "A real model wrote these answers and judged them, and a very small one" in done.stdout
    assert "simulated" not in done.stdout
    assert done.stderr == ""


@pytest.mark.ray
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
async def test_parley_up_serves_the_tiny_model_on_loopback_and_ends_it_even_when_killed(
    tmp_path: Path,
) -> None:
    missing = missing_part()
    if missing is not None:
        pytest.skip(f"no tiny model here: {missing} is not installed")
    with up(tmp_path, "--model", "tiny") as process:
        pids = {pid for pid in descendants(process.pid) if "parley.workers.tiny_model" in command_line(pid)}
        assert len(pids) == 1
        addresses = listening(pids)
        assert addresses
        assert all(LOOPBACK.match(address) for address in addresses)
        process.kill()
        process.wait(timeout=PATIENCE_SECONDS)
        await until(lambda: not alive(pids), "the tiny model's process is gone")


@pytest.mark.ray
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_parley_up_answers_on_loopback_and_leaves_nothing(tmp_path: Path, end: signal.Signals) -> None:
    with up(tmp_path) as process:
        started = set(descendants(process.pid))
        assert started
        outside = {address for address in listening(started | {process.pid}) if not LOOPBACK.match(address)}
        assert outside == set()
        asked = ask(tmp_path)
        assert asked.returncode == 0, asked.stderr
        started |= set(descendants(process.pid))
        if end is signal.SIGKILL:
            # Two agents of Ray end after a minute (measured: 61 s); our own children end at once.
            started = {pid for pid in started if not RAY_AGENTS.search(command_line(pid))}
        process.send_signal(end)
        process.wait(timeout=PATIENCE_SECONDS)
        assert process.returncode == (-end if end is signal.SIGKILL else 0)
        await until(lambda: not alive(started), "every process it had started is gone")


def ask(home: Path) -> subprocess.CompletedProcess[str]:
    command = [PARLEY, "ask", "Anyone there?", "--json"]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=environment(home), check=False
    )
