"""What the engine is told: bounds that do not depend on its own defaults, and loopback only."""

from pathlib import Path

import pytest

from parley.workers.tiny_model.engine_parameters import (
    CONTEXT_TOKENS,
    MAX_ANSWER_TOKENS,
    MAX_THREADS,
    SLOTS,
    engine_parameters,
)

FILE = Path("/models/m.gguf")


def test_the_demos_three_agents_are_answered_together_each_with_a_whole_context() -> None:
    values = engine_parameters(FILE, 0, 2)
    assert values["n_parallel"] == SLOTS >= 3
    assert values["cont_batching"]
    assert values["n_ctx"] == SLOTS * CONTEXT_TOKENS
    assert not values["kv_unified"]


def test_answers_and_kept_prompts_are_bounded() -> None:
    values = engine_parameters(FILE, 0, 2)
    assert 0 < values["n_predict"] == MAX_ANSWER_TOKENS < CONTEXT_TOKENS
    assert 0 < values["cache_ram_mib"] < 1_024
    assert not values["ctx_shift"]


def test_it_listens_on_loopback_shows_no_prompts_and_fetches_nothing() -> None:
    values = engine_parameters(FILE, 8123, 2)
    assert (values["hostnames"], values["port"]) == (["127.0.0.1"], 8123)
    assert (values["endpoint_slots"], values["ui"], values["offline"]) == (False, False, True)
    assert values["cors_origins"] != "*"


@pytest.mark.parametrize(("cores", "threads"), [(0, 1), (1, 1), (2, 2), (64, MAX_THREADS)])
def test_threads_follow_the_cores_up_to_a_few(cores: int, threads: int) -> None:
    values = engine_parameters(FILE, 0, cores)
    assert values["cpuparams.n_threads"] == values["cpuparams_batch.n_threads"] == threads
