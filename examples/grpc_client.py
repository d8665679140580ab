"""Ask over gRPC, without Parley's package: submit, look until it has ended, print the answers.

pip install grpcio grpcio-tools
python -m grpc_tools.protoc -I proto --python_out=. --grpc_python_out=. proto/orchestrator.proto
python grpc_client.py localhost:8471 "Which of these is safer, and why?"
"""

import os
import sys
import time

import grpc
import orchestrator_pb2 as pb
from orchestrator_pb2_grpc import OrchestratorServiceStub


def main(target: str, question: str) -> int:
    token = os.environ.get("PARLEY_TOKEN")
    metadata = [("authorization", f"Bearer {token}")] if token else []
    # grpc's own limit is 4 MiB; the answers of many agents may be more.
    options = [("grpc.max_receive_message_length", 64 * 1024 * 1024)]
    with grpc.insecure_channel(target, options) as channel:
        stub = OrchestratorServiceStub(channel)
        request = pb.DeliberateRequest(task_description=question, role="DEV", num_agents=3)
        # The same key again is the same deliberation, so a call whose answer was lost may be repeated.
        request.idempotency_key = f"example-{os.getpid()}-{time.time_ns()}"
        submitted = stub.Deliberate(request, metadata=metadata, timeout=10)
        print(f"{submitted.task_id}: {submitted.status}")
        look = pb.GetDeliberationResultRequest(task_id=submitted.task_id)
        while True:
            found = stub.GetDeliberationResult(look, metadata=metadata, timeout=10)
            if found.status >= pb.DELIBERATION_STATUS_COMPLETED:
                break
            time.sleep(0.2)
        print(pb.DeliberationStatus.Name(found.status), found.error_message)
        for result in found.results:
            print(f"{result.agent_id}: {result.proposal.content}")
    return 0 if found.status == pb.DELIBERATION_STATUS_COMPLETED else 1


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:3]))
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
