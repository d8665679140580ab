"""The checked-in code of the gRPC service is what its .proto makes, and its firm numbers stay."""

from pathlib import Path

import pytest

from docs import stubs
from parley.gateway.grpc_stubs import orchestrator_pb2 as pb

# shared by all who have asked before: a number never gets another meaning.
FIRM = {
    pb.DeliberateRequest: "task_description=1 role=2 constraints=3 rounds=4 num_agents=5",
    pb.DeliberateResponse: "results=1 winner_id=2 duration_ms=3 metadata=4 task_id=5 status=6",
    pb.GetDeliberationResultRequest: "task_id=1",
    pb.GetDeliberationResultResponse: "task_id=1 status=2 results=3 winner_id=4 duration_ms=5 error_message=6 metadata=7",
    pb.TaskConstraints: "rubric=1 requirements=2 metadata=3 max_iterations=4 timeout_seconds=5",
}


def test_no_stub_is_stale() -> None:
    assert [path.name for path in stubs.stale_stubs()] == [], "run `make proto`"


def test_what_differs_is_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in stubs.compiled().items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(stubs, "FOLDER", tmp_path)
    assert stubs.stale_stubs() == []
    (tmp_path / "orchestrator_pb2.pyi").write_text("")
    (tmp_path / "orchestrator_pb2_grpc.py").unlink()
    (tmp_path / "orchestrator_pb2_old.py").write_text("")
    names = [path.name for path in stubs.stale_stubs()]
    assert names == ["orchestrator_pb2.pyi", "orchestrator_pb2_grpc.py", "orchestrator_pb2_old.py"]


@pytest.mark.parametrize("message", FIRM, ids=lambda message: message.DESCRIPTOR.name)
def test_the_contracts_numbers_are_kept(message: type[pb.DeliberateRequest]) -> None:
    found = {f"{field.name}={field.number}" for field in message.DESCRIPTOR.fields}
    assert set(FIRM[message].split()) <= found


def test_the_six_statuses_have_their_numbers() -> None:
    words = ("UNKNOWN", "PENDING", "IN_PROGRESS", "COMPLETED", "FAILED", "TIMEOUT")
    found = {value.name: value.number for value in pb.DeliberationStatus.DESCRIPTOR.values}
    assert found == {f"DELIBERATION_STATUS_{word}": number for number, word in enumerate(words)}
