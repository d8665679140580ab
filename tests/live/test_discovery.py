"""What `parley doctor` and readiness say of a real vLLM."""

import asyncio
import os
import sys

from tests.live.service import Front
from tests.rig.service import plain_environment
from tests.rig.vllm.server import MAX_TOKENS, MODEL, Vllm


async def doctor(on: Front, **settings: str) -> tuple[int, str]:
    """Exit code of `parley doctor` beside the service, and the line about the model."""
    environment = plain_environment(NATS_URL=on.serving.nats_url, VLLM_URL=on.serving.model_url, **settings)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "parley", "doctor"),
        env={**environment, "COLUMNS": "300", "HOME": os.environ["HOME"]},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    (line,) = [line for line in told.decode().splitlines() if "model at" in line]
    return process.returncode, line


async def test_the_doctor_has_the_model_generate_a_token_and_its_length_told(
    plain: Front, shared: Vllm
) -> None:
    before = await shared.figures()
    code, line = await doctor(plain, VLLM_MODEL=MODEL)
    assert code == 0, line
    assert (
        f"{MODEL} generated a token, takes prompts and answers of up to {MAX_TOKENS:,} tokens together"
        in line
    )
    await shared.grew(before, generation_tokens_total=1, request_success_total=1)


async def test_the_doctor_names_the_served_model_where_another_is_wanted(plain: Front, shared: Vllm) -> None:
    before = await shared.figures()
    code, line = await doctor(plain, VLLM_MODEL="nobody")
    assert code != 0
    assert f"nobody is not served there; it serves {MODEL}" in line
    await shared.grew(before, generation_tokens_total=0)


async def test_a_service_whose_model_is_served_is_ready(on: Front, shared: Vllm) -> None:
    async with shared.http.get(f"{on.serving.http_url}/readyz") as response:
        assert response.status == 200, await response.text()
