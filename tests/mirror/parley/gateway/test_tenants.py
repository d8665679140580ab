"""Whose token, whose deliberation, how much."""

import os
from pathlib import Path

import pytest

from parley.gateway import tenants
from parley.gateway.tenants import ANYBODY, Tenant, TenantsFile, TenantUsage, hash_of, new_token, read_tenants

ONE = f'tokens = ["{hash_of("one")}"]'


def written(folder: Path, text: str) -> Path:
    path = folder / "tenants.toml"
    path.write_text(text)
    return path


def test_a_token_is_its_tenants(tmp_path: Path) -> None:
    found = read_tenants(written(tmp_path, f"[tenants.acme]\n{ONE}\nin_flight = 3\n"))
    assert found.of_token("one") == Tenant("acme", 20.0, 3)
    assert found.of_token("two") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "tenants: Field required"),
        ("x = 1", "tenants: Field required"),
        ("[tenants.acme]\n", "tenants.acme.tokens: Field required"),
        ("[tenants.acme]\ntokens = []", "tenants.acme.tokens"),
        ('[tenants.acme]\ntokens = ["secret"]', "tenants.acme.tokens[0]: must be `sha256:`"),
        (f"[tenants.a-b]\n{ONE}", "tenants.a-b: a name is 2 to 24 of a-z 0-9"),
        (f"[tenants.d]\n{ONE}", "tenants.d: a name is"),
        (f"[tenants.acme]\n{ONE}\ncolour = 1", "tenants.acme.colour"),
        (f"[tenants.acme]\n{ONE}\nin_flight = 0", "tenants.acme.in_flight"),
        (f"[tenants.acme]\n{ONE}\n[tenants.other]\n{ONE}", "tenants.other.tokens[0]: is acme's too"),
        ("[tenants", "is no TOML"),
    ],
)
def test_a_mistake_in_the_file_is_told_by_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"tenants\.toml") as told:
        read_tenants(written(tmp_path, text))
    assert said in str(told.value)
    assert "secret" not in str(told.value)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file"):
        read_tenants(tmp_path / "none.toml")


def test_a_changed_file_is_in_force_and_a_bad_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tenants, "LOOK_SECONDS", 0.0)
    path = written(tmp_path, f"[tenants.acme]\n{ONE}\n")
    file = TenantsFile(path)
    written(tmp_path, "[tenants")
    assert file.of_token("one") is not None
    assert "stay in force" in caplog.text
    written(tmp_path, f'[tenants.acme]\ntokens = ["{hash_of("two")}"]\n')
    os.utime(path, ns=(1, 1))
    assert file.of_token("one") is None
    assert file.of_token("two") is not None
    path.unlink()
    assert file.of_token("two") is not None


def test_names_are_a_tenants_own_and_the_same_for_the_same_key() -> None:
    acme, other = Tenant("acme"), Tenant("other")
    assert acme.task_id("k") == acme.task_id("k") != acme.task_id("l")
    assert acme.task_id(None) != acme.task_id(None)
    assert acme.owns(str(acme.task_id("k")))
    assert not other.owns(str(acme.task_id("k")))
    assert not acme.owns("acmes-1")
    assert not acme.owns("d-1")
    assert all(len(str(Tenant("a" * 24).task_id(key))) <= 64 for key in (None, "k"))


def test_without_tenants_a_key_that_may_be_a_name_is_one() -> None:
    assert ANYBODY.task_id(None) is None
    assert ANYBODY.task_id("order_17") == "order_17"
    assert str(ANYBODY.task_id("d-5")).startswith("key-")
    assert str(ANYBODY.task_id("a b")).startswith("key-")
    assert ANYBODY.owns("anything")


def test_requests_come_back_at_their_rate() -> None:
    tenant = Tenant("acme", requests_per_second=2.0)
    usage = TenantUsage(tenant, 0.0)
    assert [usage.wait_for_request(tenant, 0.0) for _ in range(3)] == [0.0, 0.0, 0.5]
    assert usage.wait_for_request(tenant, 0.5) == 0.0
    assert usage.wait_for_request(tenant, 100.0) == 0.0


def test_tokens_come_back_after_a_day() -> None:
    tenant = Tenant("acme", tokens_per_day=10)
    usage = TenantUsage(tenant, 0.0)
    assert usage.begin("t")
    assert not usage.begin("t")
    assert usage.in_flight == 1
    usage.end("t", 10)
    usage.end("t", 10)  # told once more
    assert (usage.in_flight, usage.wait_for_tokens(tenant, 400.0)) == (0, 86_000.0)
    assert usage.wait_for_tokens(tenant, 86_400.0) == 0.0


def test_nobody_guesses_a_token() -> None:
    assert len({new_token() for _ in range(100)}) == 100
    assert len(new_token()) > 40
