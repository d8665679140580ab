"""The document is valid, complete, and what the port does."""

import asyncio
import json
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from parley.broker.core.messages import DeliberationRequested
from parley.gateway.openapi import document
from tests.harness import ModelServer, Running
from tests.mirror.parley.gateway import door


def test_a_public_validator_takes_it() -> None:
    validate(document(), cls=OpenAPIV31SpecValidator)
    json.dumps(document())


def test_each_field_of_a_question_is_described() -> None:
    asked = document()["components"]["schemas"]["DeliberationRequested"]["properties"]
    assert asked.keys() == DeliberationRequested.model_fields.keys() - {"task_id"}
    assert all(field.get("description") for field in asked.values())


async def test_each_path_is_there_and_no_other(local_service: Running) -> None:
    async with door(local_service) as program:
        served = (await program.get("/openapi.json")).json()
        assert served == json.loads(json.dumps(document()))
        for path, operations in served["paths"].items():
            for method in ("get", "post", "delete", "put"):
                answer = await program.request(method.upper(), path.replace("{task_id}", "nobody"))
                assert (answer.status_code == 405) == (method not in operations), (method, path)


@pytest.mark.timeout(300)
async def test_whatever_is_sent_is_no_500(local_service: Running, model: ModelServer) -> None:
    """Requests made from the document, and against it."""
    async with door(local_service) as program:
        url = str(program.base_url)
        seen = await asyncio.to_thread(fuzz, url, 25)
    assert len(seen) >= 100
    assert not [status for status in seen if status >= 500]


def fuzz(url: str, examples: int) -> list[int]:
    """The status of each of so many requests an operation."""
    schema: Any = schemathesis.openapi.from_url(f"{url}/openapi.json")
    seen: list[int] = []
    for found in schema.get_all_operations():
        operation = found.ok()

        def one(case: Any) -> None:
            seen.append(case.call(base_url=url, timeout=20).status_code)

        quiet = settings(
            max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None
        )
        quiet(given(case=operation.as_strategy())(one))()
    return seen
