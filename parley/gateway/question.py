"""The question that a caller sends, whichever way it came: read, checked, and named."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from parley.broker.core.errors import InvalidMessage
from parley.broker.core.frozen_models import changed
from parley.broker.core.messages import DeliberationRequested, decode
from parley.gateway.caller import Caller
from parley.gateway.problems import Problem, invalid
from parley.gateway.tenants import MAX_KEY_CHARACTERS


async def question_of(
    caller: Caller, body: bytes, key: str | None, *, key_name: str, lenient: bool = False
) -> DeliberationRequested:
    """The question in this JSON. Raises Problem that names each field.

    `key`: the idempotency key, which the caller knows as `key_name`. `lenient`: fields that are not known are no mistake.
    """
    try:
        asked = decode(DeliberationRequested, body)
        if not lenient:
            _check_names(json.loads(body), key_name)
    except InvalidMessage as error:
        raise invalid(error.problems) from None
    if key is not None and not 1 <= len(key) <= MAX_KEY_CHARACTERS:
        raise invalid([f"{key_name}: 1 to {MAX_KEY_CHARACTERS} characters"])
    asked = named(asked, caller, key)
    if key is not None:
        await _check_same(caller, asked, key_name)
    return asked


def named(asked: DeliberationRequested, caller: Caller, key: str | None) -> DeliberationRequested:
    """The same question under the name that this key has for this caller."""
    name = caller.tenant.task_id(key)
    return asked if asked.task_id == name else changed(asked, task_id=name)


def _check_names(fields: Mapping[str, Any], key_name: str) -> None:
    # The gateway sets it itself.
    problems = [f"task_id: send {key_name} instead"] if "task_id" in fields else []
    known_names = DeliberationRequested.model_fields.keys()
    unknown = sorted(str(name)[:64] for name in fields.keys() - known_names)[:20]
    problems += [f"{name}: no such field" for name in unknown]
    if problems:
        raise InvalidMessage(problems)


async def _check_same(caller: Caller, asked: DeliberationRequested, key_name: str) -> None:
    """Raises Problem where the key is another question's."""
    assert asked.task_id is not None
    tally = await caller.client.tally(asked.task_id)
    if tally is not None and tally.question is not None and tally.question != asked.question:
        words = f"this {key_name} was used for another question"
        raise Problem(HTTPStatus.CONFLICT, words, fields=[(key_name, words)])
