"""Reads the list of models that a server sends for `/models`, in the forms that servers have. Pure.

A list is a hint: servers leave names out, add `:latest` to them, list `openai/*`, or have no list at all. What counts is
a token that came (`readiness`).
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from parley.broker.core.messages import ErrorType
from parley.workers.model.error_body import encodable
from parley.workers.model.model_error import MAX_ERROR_CHARACTERS, ModelError

# Where an entry has its name: OpenAI's, then Ollama's.
_NAMES = ("id", "name", "model")
# Where an entry has the longest prompt and answer together: vLLM, OpenRouter, Groq, LM Studio.
_LENGTHS = ("max_model_len", "context_length", "context_window", "max_context_length")
# What Ollama adds to a name without a tag.
_TAG = ":latest"
# What Google puts before a name.
_PREFIX = "models/"
# Words in the names of models that write no answer. LM Studio and Ollama list them beside the others.
_NO_CHAT = re.compile(r"embed|rerank|whisper|\btts\b|moderation|dall-e|\bbge\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that a server has. `max_model_len`: of prompt and answer, in tokens; not every server tells it."""

    name: str
    max_model_len: int | None = None


def read_list(endpoint: object, body: bytes) -> list[ServedModel]:
    """The models that the body names, in its order. Raises ModelError, MALFORMED_ANSWER for another body."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ModelError(
            ErrorType.MALFORMED_ANSWER, f"the list of models of {endpoint} is not JSON"
        ) from error
    if isinstance(answer, dict):
        answer = answer.get("data", answer.get("models"))
    if not isinstance(answer, list):
        raise ModelError(ErrorType.MALFORMED_ANSWER, f"{endpoint} lists no models")
    found = [model for entry in answer if (model := _entry(entry)) is not None]
    if answer and not found:
        raise ModelError(ErrorType.MALFORMED_ANSWER, f"{endpoint} lists no models")
    return found


def _entry(entry: Any) -> ServedModel | None:
    if isinstance(entry, str) and entry:
        return ServedModel(encodable(entry))
    if not isinstance(entry, Mapping):
        return None
    name = next((entry[key] for key in _NAMES if isinstance(entry.get(key), str) and entry[key]), None)
    return None if name is None else ServedModel(encodable(name), _length(entry))


def _length(entry: Mapping[str, Any]) -> int | None:
    lengths = (entry.get(key) for key in _LENGTHS)
    return next((length for length in lengths if type(length) is int and length > 0), None)


def match(models: Sequence[ServedModel], wanted: str | None) -> ServedModel | None:
    """The model that is called `wanted`, under that name, which the server is asked for; None if none is.

    For None the first that is one model's name and not a pattern, and not named as one that does not chat.
    """
    if wanted is None:
        names = [model for model in models if "*" not in model.name]
        return next(
            (model for model in names if not _NO_CHAT.search(model.name)), names[0] if names else None
        )
    exact = next((model for model in models if model.name == wanted), None)
    other = exact or next((model for model in models if _means(model.name, wanted)), None)
    return None if other is None else ServedModel(wanted, other.max_model_len)


def _means(listed: str, wanted: str) -> bool:
    plain, asked = (name.removeprefix(_PREFIX).removesuffix(_TAG) for name in (listed, wanted))
    return plain == asked or ("*" in listed and fnmatchcase(wanted, listed.replace("[", "[[]")))


def shown(models: Iterable[ServedModel]) -> str:
    """The names, for an error."""
    return ", ".join(model.name for model in models)[:MAX_ERROR_CHARACTERS] or "nothing"
