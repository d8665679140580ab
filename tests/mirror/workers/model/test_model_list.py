"""A list of models in each server's form, and which of its names is the wanted one."""

import json
from typing import Any

import pytest

from parley.broker.core.messages import ErrorType
from parley.workers.model.model_error import ModelError
from parley.workers.model.model_list import ServedModel, match, read_list, shown


@pytest.mark.parametrize(
    ("answer", "models"),
    [
        (
            {"data": [{"id": "a", "max_model_len": 4096}, {"id": "b"}]},
            [ServedModel("a", 4096), ServedModel("b")],
        ),
        ({"data": [{"id": "a", "max_model_len": "many"}]}, [ServedModel("a")]),
        ({"data": [{"id": "a", "context_length": 8192}]}, [ServedModel("a", 8192)]),
        ({"data": [{"id": "a", "context_window": 0}]}, [ServedModel("a")]),
        ([{"id": "a"}], [ServedModel("a")]),
        (["a", "b"], [ServedModel("a"), ServedModel("b")]),
        ({"data": ["a"]}, [ServedModel("a")]),
        ({"models": [{"name": "llama3:latest", "model": "llama3:latest"}]}, [ServedModel("llama3:latest")]),
        ({"data": [{"object": "model"}, {"id": "a"}, 5]}, [ServedModel("a")]),
        ({"data": []}, []),
        ([], []),
    ],
)
def test_each_form_of_a_list_is_read(answer: Any, models: list[ServedModel]) -> None:
    assert read_list("http://h", json.dumps(answer).encode()) == models


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"5", b"null", b"Not Found", b'{"data": {}}', b'{"data": [{}]}', b"[" * 100_000]
)
def test_another_body_is_no_list(body: bytes) -> None:
    with pytest.raises(ModelError, match="http://h") as caught:
        read_list("http://h", body)
    assert caught.value.error_type is ErrorType.MALFORMED_ANSWER


@pytest.mark.parametrize(
    ("listed", "wanted", "name"),
    [
        (["a", "b"], "b", "b"),
        (["llama3:latest"], "llama3", "llama3"),
        (["llama3"], "llama3:latest", "llama3:latest"),
        (["llama3:8b"], "llama3", None),
        (["openai/*"], "openai/gpt-4o", "openai/gpt-4o"),
        (["*"], "anything", "anything"),
        (["openai/*"], "gpt-4o", None),
        (["models/gemini-2.0-flash"], "gemini-2.0-flash", "gemini-2.0-flash"),
        (["a"], "A", None),
        ([], "a", None),
        (["openai/*", "b"], None, "b"),
        (["text-embedding-nomic-embed-text-v1.5", "bge-m3", "qwen"], None, "qwen"),
        (["text-embedding-ada-002", "whisper-1"], None, "text-embedding-ada-002"),
        (["openai/*"], None, None),
        ([], None, None),
    ],
)
def test_a_name_is_found_as_the_server_means_it_and_asked_for_as_it_was_wanted(
    listed: list[str], wanted: str | None, name: str | None
) -> None:
    found = match([ServedModel(one, 7) for one in listed], wanted)
    assert found == (None if name is None else ServedModel(name, 7))


def test_a_long_list_is_shown_cut_and_an_empty_one_as_nothing() -> None:
    assert shown([ServedModel("a"), ServedModel("b")]) == "a, b"
    assert shown([]) == "nothing"
    assert len(shown(ServedModel(f"model-{n}") for n in range(1_000))) == 500
