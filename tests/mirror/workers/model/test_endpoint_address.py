"""An endpoint's address in calls, metrics and messages, and the order of several."""

from collections import Counter

import pytest

from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.endpoint_failover import preference_order

THREE = tuple(Endpoint(f"http://gpu-{name}:8000") for name in "abc")


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://host:8000", "http://host:8000/v1"),
        ("http://host:8000/", "http://host:8000/v1"),
        ("http://host:8000/v1", "http://host:8000/v1"),
        ("http://host:8000//", "http://host:8000/v1"),
        ("http://host:8000?key=hush", "http://host:8000/v1"),
        (" http://host:8000/v1/// ", "http://host:8000/v1"),
        ("https://user:hush@host/v1", "https://host/v1"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
        # A path is the base as it is.
        ("https://host/models/llama", "https://host/models/llama"),
        (
            "https://generativelanguage.googleapis.com/v1beta/openai/",
            "https://generativelanguage.googleapis.com/v1beta/openai",
        ),
        ("https://open.bigmodel.cn/api/paas/v4", "https://open.bigmodel.cn/api/paas/v4"),
        ("https://api.groq.com/openai/v1", "https://api.groq.com/openai/v1"),
        ("https://host/V1", "https://host/V1"),
        ("https://host/v1#part", "https://host/v1"),
        # A call's address was pasted: what is before the call, also the root.
        ("https://host/v1/chat/completions", "https://host/v1"),
        ("https://host/v1/chat/completions/", "https://host/v1"),
        ("https://host/v1/Chat/Completions?x=y", "https://host/v1"),
        ("https://host/v1/completions", "https://host/v1"),
        ("https://host/v1/models", "https://host/v1"),
        ("https://host/v1/responses", "https://host/v1"),
        ("https://api.perplexity.ai/chat/completions", "https://api.perplexity.ai"),
        (
            "https://x.openai.azure.com/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21",
            "https://x.openai.azure.com/openai/deployments/gpt-4o",
        ),
    ],
)
def test_a_bare_host_gets_v1_a_path_is_the_base_and_a_pasted_call_is_cut(url: str, base: str) -> None:
    assert Endpoint(url).base == base
    assert Endpoint(url).call_url("/models").partition("?")[0] == f"{base}/models"


@pytest.mark.parametrize(
    ("url", "call"),
    [
        ("http://host?api-version=1", "http://host/v1/models?api-version=1"),
        ("http://host/v1/?a=1&b=%2F", "http://host/v1/models?a=1&b=%2F"),
        ("http://host/v1?", "http://host/v1/models"),
        ("http://host/x/chat/completions?api-version=1", "http://host/x/models?api-version=1"),
    ],
)
def test_the_query_goes_with_every_call(url: str, call: str) -> None:
    assert Endpoint(url).call_url("/models") == call


def test_the_values_of_a_query_are_shown_to_nobody_but_a_version() -> None:
    endpoint = Endpoint("https://host/v1?key=hush&api-version=2024-10-21&code=a%2Fb")
    assert str(endpoint) == "https://host/v1?key=***&api-version=2024-10-21&code=***"
    assert endpoint.secrets == ("hush", "a/b", "a%2Fb")


@pytest.mark.parametrize(
    ("url", "secrets"),
    [
        ("http://host", ()),
        ("http://user:p%40ss@host", ("p%40ss", "p@ss", "user:p@ss", "dXNlcjpwQHNz")),
        ("http://token@host", ("token", "token:", "dG9rZW46")),
    ],
)
def test_a_users_name_beside_a_password_is_no_secret_and_a_user_alone_is_a_token(
    url: str, secrets: tuple[str, ...]
) -> None:
    assert Endpoint(url).secrets == secrets


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("http://gpu-1:8000", "gpu-1:8000"),
        ("https://user:hush@gpu-2/v1", "gpu-2:443"),
        ("http://gpu-3/some/path?key=hush", "gpu-3:80"),
        ("http://[::1]:8000", "[::1]:8000"),
    ],
)
def test_an_endpoints_label_is_its_host_and_port_and_nothing_else(url: str, label: str) -> None:
    assert Endpoint(url).label == label


def test_user_and_password_become_basic_authorization_and_are_never_shown() -> None:
    endpoint = Endpoint("https://user:p%40ss@host")
    assert endpoint.authorization == "Basic dXNlcjpwQHNz"
    assert "p%40ss" not in str(endpoint) + repr(endpoint)
    assert "p@ss" not in str(endpoint)
    assert Endpoint("https://host").authorization is None


# ── the order in which a task tries them ────────────────────────────────────────────────────────────────────


def test_all_agents_of_a_task_prefer_the_same_endpoint_in_whatever_order_they_are_configured() -> None:
    assert preference_order("task-1", THREE) == preference_order("task-1", THREE[::-1])
    assert sorted(e.url for e in preference_order("task-1", THREE)) == [e.url for e in THREE]


def test_tasks_spread_over_the_endpoints() -> None:
    first = Counter(preference_order(f"task-{n}", THREE)[0].url for n in range(3_000))
    assert set(first) == {endpoint.url for endpoint in THREE}
    # A fair share is 1,000 with a standard deviation of 26.
    assert all(850 < count < 1_150 for count in first.values()), first


def test_losing_an_endpoint_moves_only_its_own_tasks() -> None:
    *left, gone = THREE
    before = {f"task-{n}": preference_order(f"task-{n}", THREE) for n in range(500)}
    for task, order in before.items():
        after = preference_order(task, left)
        assert after == [endpoint for endpoint in order if endpoint != gone]
