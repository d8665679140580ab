"""The contract's tables: bounds come from the models, and nothing that travels is left out."""

from docs import contract
from parley.broker.core.messages import DeliberationRequested, DeliberationStatus
from parley.broker.jetstream import topology
from parley.broker.jetstream.rights import covers


def test_a_field_has_its_bound_and_its_default() -> None:
    table = contract.requests()
    assert "| `num_agents` | integer (1 to 256) | `3` |" in table
    assert "| `seed` | integer (-2^63 to 2^63 - 1) or null |  |" in table
    assert "| `task_description` | string (not empty) or null |" in table
    assert "| `timeout_seconds` | number (0.1 to 86,400) or null |  |" in table
    assert "| `constraints` | [Constraints](#constraints) | `{}` |" in table


def test_every_field_has_a_row() -> None:
    for model, table in (
        (DeliberationRequested, contract.requests()),
        (DeliberationStatus, contract.status()),
    ):
        for name in model.model_fields:
            assert f"\n| `{name}` | " in table


def test_every_subject_of_a_stream_and_every_consumer_has_a_row() -> None:
    named = set(contract.SUBJECTS)
    for stream in topology.streams():
        for subject in stream.subjects or ():
            kept_by_nats = subject.startswith("$")  # the KV bucket's and the object store's own
            assert kept_by_nats or subject in named or any(covers(subject, one) for one in named)
    for durable in topology.DURABLES:
        assert f"| `{durable.name}` | `{durable.stream}` | `{durable.filter}` |" in contract.consumers()


def test_a_stored_subject_names_its_stream_and_a_core_one_none() -> None:
    table = contract.subjects()
    assert "| `agent.requested` | service | `AGENT_REQUESTS` |" in table
    assert "| `agent.cancel` | service | none (core NATS) |" in table
