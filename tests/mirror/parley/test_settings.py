"""The environment is read in one place: each setting under its name, what is wrong told by name, secrets never."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import certifi
import pytest
from pydantic import SecretStr

from parley.broker.core.errors import SettingsError
from parley.nats_settings import NatsSettings
from parley.settings import Settings, load, shown, table, variable
from parley.workers.model.breaker import BreakerPolicy
from parley.workers.model.call_policy import CallTimeouts, RetryPolicy
from parley.workers.model.model_server import ModelServer
from parley.workers.model.request_fields import FieldRules

ENDPOINTS = Path(__file__).parent / "endpoints.toml"

# Of each field: a value as the environment holds it, and what it becomes. None is a default.
VALUES: dict[str, tuple[str, Any]] = {
    "nats_url": ("nats://one:4222,tls://two", "nats://one:4222,tls://two"),
    "worker_nats_url": ("nats://worker:secret@one", "nats://worker:secret@one"),
    "ray_address": ("head:6379", "head:6379"),
    "vllm_url": ("http://gpu-1:8000, https://gpu-2/v1", "http://gpu-1:8000, https://gpu-2/v1"),
    "vllm_model": ("llama", "llama"),
    "vllm_api_key": ("sesame", SecretStr("sesame")),
    "vllm_api_key_header": ("api-key", "api-key"),
    "vllm_headers": ("X-Title: Parley", SecretStr("X-Title: Parley")),
    "vllm_ca_file": (certifi.where(), Path(certifi.where())),
    "vllm_proxy": ("http://user:secret@proxy:3128", "http://user:secret@proxy:3128"),
    "endpoints": (str(ENDPOINTS), ENDPOINTS),
    "vllm_omit": ("seed,stream_options", "seed,stream_options"),
    "vllm_rename": ("max_tokens=max_completion_tokens", "max_tokens=max_completion_tokens"),
    "roles_dir": ("/", Path("/")),
    "vllm_stream": ("true", True),
    "vllm_connect_timeout_seconds": ("1.5", 1.5),
    "vllm_first_byte_timeout_seconds": ("2.5", 2.5),
    "vllm_total_timeout_seconds": ("99", 99.0),
    "retry_attempts": ("9", 9),
    "retry_base_seconds": ("0.125", 0.125),
    "retry_cap_seconds": ("60", 60.0),
    "breaker_failures": ("3", 3),
    "breaker_cooldown_seconds": ("0.5", 0.5),
    "pool": ("local", "local"),
    "pool_actors": ("5", 5),
    "pool_slots": ("64", 64),
    "ray_actor_cpus": ("0.5", 0.5),
    "max_agents": ("16", 16),
    "timeout_seconds": ("45", 45.0),
    "keep_seconds": ("7200", 7200.0),
    "claim_check_bytes": ("65536", 65_536),
    "reply_prefixes": ("_INBOX.,replies.", "_INBOX.,replies."),
    "replicas": ("3", 3),
    "storage_bytes": ("1073741824", 2**30),
    "ack_wait_seconds": ("12", 12.0),
    "drain_seconds": ("0", 0.0),
    "http_host": ("0.0.0.0", "0.0.0.0"),
    "http_port": ("0", 0),
    "gateway_host": ("0.0.0.0", "0.0.0.0"),
    "gateway_port": ("0", 0),
    "gateway_grpc_port": ("0", 0),
    "gateway_tenants": ("/srv/tenants.toml", Path("/srv/tenants.toml")),
    "gateway_panels": ("/srv/panels.toml", Path("/srv/panels.toml")),
    "gateway_open": ("true", True),
    "home": ("/srv/parley", Path("/srv/parley")),
    "log_level": ("DEBUG", "DEBUG"),
    "log_format": ("json", "json"),
}
# Names that others share; each is read too.
PLAIN = {
    "nats_url": "NATS_URL", "ray_address": "RAY_ADDRESS", "vllm_url": "VLLM_URL", "vllm_model": "VLLM_MODEL",
    "vllm_api_key": "VLLM_API_KEY",
}  # fmt: skip
BAD_VALUES = {
    "NATS_URL": ["http://host", "nats://", "nats://host:99999", "nats://host:0"],
    "PARLEY_NATS_URL": ["host:4222", "nats://[::1", "nats://one,,nats://two"],
    "PARLEY_WORKER_NATS_URL": ["host:4222"],
    "VLLM_URL": [
        "gpu-1:8000",
        "http://a http://b",
        "http://a/v1\nhttp://b/v1",
        "http://a/v1;http://b/v1",
        "http://a\\b",
    ],
    "PARLEY_VLLM_URL": ["http://one,ftp://two"],
    "VLLM_API_KEY": ["two\nlines", "schlüssel"],
    "PARLEY_VLLM_API_KEY_HEADER": ["two words", "", "Content-Type", "X:"],
    "PARLEY_VLLM_HEADERS": ["swordfish", "X-Key:", "Content-Length: 5", '{"a": 1}', "X: 1\nx: 2"],
    "PARLEY_VLLM_CA_FILE": ["/no/such/file", "/", "/etc/hostname", "/bin/true"],
    "PARLEY_VLLM_PROXY": ["proxy:3128", "socks5://proxy:1080", "http://", "http://a,http://b", "http://a:x"],
    "PARLEY_VLLM_OMIT": ["model", "sed"],
    "PARLEY_VLLM_RENAME": ["max_tokens", "model=x", "seed=stop"],
    "PARLEY_VLLM_STREAM": ["maybe"],
    "PARLEY_VLLM_CONNECT_TIMEOUT_SECONDS": ["0"],
    "PARLEY_VLLM_TOTAL_TIMEOUT_SECONDS": ["-1"],
    "PARLEY_VLLM_FIRST_BYTE_TIMEOUT_SECONDS": ["soon"],
    "PARLEY_RETRY_ATTEMPTS": ["0", "1.5", ""],
    "PARLEY_RETRY_CAP_SECONDS": ["inf"],
    "PARLEY_BREAKER_FAILURES": ["0"],
    "PARLEY_BREAKER_COOLDOWN_SECONDS": ["0", "nan"],
    "PARLEY_ACK_WAIT_SECONDS": ["nan"],
    "PARLEY_POOL": ["dask"],
    "PARLEY_POOL_ACTORS": ["0"],
    "PARLEY_POOL_SLOTS": ["many"],
    "PARLEY_RAY_ACTOR_CPUS": ["-1"],
    "PARLEY_MAX_AGENTS": ["257"],
    "PARLEY_TIMEOUT_SECONDS": ["0.05", "86401"],
    "PARLEY_KEEP_SECONDS": ["0"],
    "PARLEY_CLAIM_CHECK_BYTES": ["1000"],
    "PARLEY_REPLICAS": ["6"],
    "PARLEY_DRAIN_SECONDS": ["-1"],
    "PARLEY_HTTP_PORT": ["65536"],
    "PARLEY_GATEWAY_GRPC_PORT": ["65536"],
    "PARLEY_GATEWAY_PORT": ["65536"],
    "PARLEY_GATEWAY_OPEN": ["perhaps"],
    "PARLEY_LOG_LEVEL": ["loud"],
    "PARLEY_LOG_FORMAT": ["xml"],
    "PARLEY_REPLY_PREFIXES": ["_INBOX", "$JS.API.", "_INBOX.,deliberation.completed."],
}
SECRET = "hush-hush"


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("PARLEY_") or name.upper() in PLAIN.values():
            monkeypatch.delenv(name)


def problems(**overrides: Any) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load(**overrides)
    return caught.value.problems


def test_every_field_is_tried_here() -> None:
    apart = NatsSettings.model_fields.keys() - {"nats_url", "worker_nats_url"}  # test_nats_settings.py
    assert list(VALUES) == [field for field in Settings.model_fields if field not in apart]


def test_nothing_has_to_be_set() -> None:
    settings = load()
    assert (settings.nats_url, settings.vllm_url, settings.ray_address) == (None, None, None)
    assert settings.vllm_api_key is None
    assert settings.servers == ()


@pytest.mark.parametrize("field", VALUES)
def test_each_variable_is_read_under_its_parley_name(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, expected = VALUES[field]
    assert getattr(load(), field) != expected
    monkeypatch.setenv(f"PARLEY_{field.upper()}", raw)
    assert getattr(load(), field) == expected


@pytest.mark.parametrize("field", PLAIN)
def test_a_plain_name_is_read_and_the_parley_name_wins(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, expected = VALUES[field]
    monkeypatch.setenv(PLAIN[field], raw)
    assert getattr(load(), field) == expected
    better = {"nats_url": "nats://better", "vllm_url": "http://better"}.get(field, "better")
    monkeypatch.setenv(f"PARLEY_{field.upper()}", better)
    assert getattr(load(), field) == (SecretStr(better) if field == "vllm_api_key" else better)


@pytest.mark.parametrize("field", sorted(set(VALUES) - set(PLAIN)))
def test_a_name_without_the_prefix_is_not_ours(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, _ = VALUES[field]
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")  # HOME has its own meaning for where that would be
    before = load()
    monkeypatch.setenv(field.upper(), raw)
    assert load() == before


@pytest.mark.parametrize("blank", ["", "   "])
@pytest.mark.parametrize("field", [*PLAIN, "home"])
def test_a_blank_value_is_as_good_as_none(field: str, blank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"PARLEY_{field.upper()}", blank)
    assert getattr(load(), field) == (
        Path(os.environ["HOME"]) / ".local/state/parley" if field == "home" else None
    )


def test_the_state_folder_is_where_the_desktop_standard_puts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")
    assert load().home == Path("/var/state/parley")


def test_overrides_win_over_the_environment_and_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_HTTP_PORT", "1234")
    assert load(http_port=0).http_port == 0
    (problem,) = problems(http_port=-1)
    assert problem.startswith("PARLEY_HTTP_PORT: ")
    with pytest.raises(TypeError, match="htpp_port"):
        load(htpp_port=0)


# ── what is wrong ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD_VALUES.items() for value in values]
)
def test_a_bad_value_is_one_line_that_begins_with_the_variable_it_was_set_under(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    (problem,) = problems()
    assert problem.startswith(f"{name}: ")
    assert "\n" not in problem
    assert len(problem) < 250


def test_every_bad_value_gets_its_own_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_POOL", "dask")
    monkeypatch.setenv("PARLEY_HTTP_PORT", "x" * 10_000)
    monkeypatch.setenv("NATS_URL", "?")
    found = problems()
    assert sorted(problem.partition(":")[0] for problem in found) == [
        "NATS_URL",
        "PARLEY_HTTP_PORT",
        "PARLEY_POOL",
    ]
    assert all(len(problem) < 250 for problem in found)


def test_a_backoff_that_starts_above_its_cap_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_RETRY_BASE_SECONDS", "11")
    (problem,) = problems()
    assert "PARLEY_RETRY_BASE_SECONDS" in problem
    assert "PARLEY_RETRY_CAP_SECONDS" in problem


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NATS_URL", f"http://{SECRET}@host"),
        ("PARLEY_NATS_URL", f"nats://user:{SECRET}@host:99999"),
        ("VLLM_URL", f"ftp://user:{SECRET}@host"),
        ("VLLM_API_KEY", f"{SECRET}\nmore"),
        ("PARLEY_VLLM_API_KEY", f"{SECRET}é"),
        ("PARLEY_VLLM_APIKEY", SECRET),
        ("PARLEY_VLLM_HEADERS", SECRET),
        ("PARLEY_VLLM_HEADERS", f"X-Key: {SECRET}é"),
        ("PARLEY_VLLM_PROXY", f"ftp://user:{SECRET}@host"),
    ],
)
def test_no_problem_shows_a_secret(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load()
    assert SECRET not in f"{caught.value!s} {caught.value!r} {caught.value.__cause__!r}"


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("PARLEY_NATS_ULR", "PARLEY_NATS_URL"),
        ("PARLEY_HTTPPORT", "PARLEY_HTTP_PORT"),
        ("PARLEY_TIMEOUT", "PARLEY_TIMEOUT_SECONDS"),
        ("parley_pool_slot", "PARLEY_POOL_SLOTS"),
        ("Parley_Pool", "PARLEY_POOL"),
    ],
)
def test_a_misspelt_setting_is_corrected(wrong: str, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(wrong, "1")
    assert problems() == (f"{wrong}: no such setting; did you mean {meant}?",)


def test_a_setting_that_is_like_no_other_is_refused_without_a_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_XYZZY_QWERTY", "1")
    assert problems() == ("PARLEY_XYZZY_QWERTY: no such setting",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PARLEY_SERVICE_HOST", "10.0.0.1"),
        ("PARLEY_SERVICE_PORT", "4222"),
        ("PARLEY_SERVICE_PORT_CLIENT_WS", "4222"),
        ("PARLEY_PORT", "tcp://10.0.0.1:4222"),
        ("PARLEY_PORT_4222_TCP", "tcp://10.0.0.1:4222"),
        ("PARLEY_PORT_4222_TCP_ADDR", "10.0.0.1"),
        ("PARLEY_PORT_4222_TCP_PORT", "4222"),
        ("PARLEY_PORT_4222_TCP_PROTO", "tcp"),
        ("PARLEY_PORT_53_UDP_PROTO", "udp"),
        ("PARLEY_SOMETHING_SERVICE_HOST", "10.0.0.1"),
        ("PARLEY_DISPATCH_2_SERVICE_PORT_METRICS", "9464"),
        ("PARLEY_SOMETHING_PORT", "tcp://10.0.0.1:9464"),
        ("PARLEY_SOMETHING_PORT_9464_TCP_ADDR", "10.0.0.1"),
    ],
)
def test_kubernetes_links_are_not_settings(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load()
    monkeypatch.setenv(name, value)
    assert load() == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PARLEY_PORT", "9464"),
        ("PARLEY_HTPP_PORT", "9464"),
        ("parley_service_host", "10.0.0.1"),
        ("Parley_Port", "tcp://10.0.0.1:4222"),
        ("PARLEY_PORT_4222_TCP_NAME", "x"),
        ("PARLEY_PORT_HTTP_TCP", "tcp://10.0.0.1:4222"),
        ("PARLEY_SERVICE", "x"),
        ("PARLEY_SERVICE_HOSTS", "10.0.0.1"),
    ],
)
def test_a_name_like_a_link_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    (problem,) = problems()
    assert problem.startswith(f"{name}: no such setting")


# ── what it comes to ──────────────────────────────────────────────────────────────────────────────────────────────


def test_several_model_servers_are_several_endpoints() -> None:
    servers = load(vllm_url=" http://one:8000 , https://two/v1").servers
    assert [server.url for server in servers] == ["http://one:8000", "https://two/v1"]


def test_several_reply_prefixes_are_several() -> None:
    assert load(reply_prefixes="_INBOX., answers.").allowed_reply_prefixes == ("_INBOX.", "answers.")


def test_a_key_from_a_file_loses_its_line_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "sesame\n")
    assert load().vllm_api_key == SecretStr("sesame")


@pytest.mark.parametrize("value", ["Bearer sesame", "bearer  sesame\n"])
def test_a_key_that_was_copied_with_its_bearer_is_the_key(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", value)
    assert load().api_key == "sesame"


def test_a_worker_gets_everything_that_is_set_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for field, (raw, _) in VALUES.items():
        monkeypatch.setenv(f"PARLEY_{field.upper()}", raw)
    config = load().worker_config("nats://real", "real-model")
    # Not the service's: an actor has only a worker's rights.
    assert config.nats_url == "nats://worker:secret@one"
    assert config.model == "real-model"
    assert [server.url for server in config.servers] == [
        "http://gpu-1:8000",
        "https://gpu-2/v1",
        "http://gpu-3:8000",
    ]
    assert [server.api_key for server in config.servers] == ["sesame", "sesame", None]
    assert config.timeouts == CallTimeouts(connect=1.5, first_byte=2.5, total=99.0)
    assert config.retry == RetryPolicy(attempts=9, base=0.125, cap=60.0)
    assert config.breaker_policy == BreakerPolicy(failures=3, cooldown=0.5)
    assert (config.stream, config.slots, config.ack_wait_seconds) == (True, 64, 12.0)
    assert config.drain_seconds == 0.0
    access = config.servers[0].access
    assert (access.key_header, access.headers) == ("api-key", (("X-Title", "Parley"),))
    assert access.proxy == "http://user:secret@proxy:3128"
    assert access.certificates == Path(certifi.where()).read_text()
    assert access.fields == FieldRules(
        frozenset({"seed", "stream_options"}), (("max_tokens", "max_completion_tokens"),)
    )
    # Carried to actors, printed nowhere.
    assert pickle.loads(pickle.dumps(config)) == config
    assert not any(secret in repr(config) for secret in ("sesame", "user:secret"))


def test_the_defaults_of_the_settings_are_those_of_the_code() -> None:
    config = load(vllm_url="http://gpu").worker_config("nats://x", "m")
    assert config.nats_url == "nats://x"
    assert (config.timeouts, config.retry) == (CallTimeouts(), RetryPolicy())
    assert config.breaker_policy == BreakerPolicy()
    assert config.servers == (ModelServer("http://gpu"),)


# ── shown ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_settings_are_shown_with_their_secrets_masked() -> None:
    settings = load(
        nats_url=f"nats://{SECRET}@one:4222,nats://user:{SECRET}@two:4222",
        vllm_url=f"http://user:{SECRET}@gpu:8000",
        ray_address=f"ray://user:{SECRET}@head:10001",
        worker_nats_url=f"nats://{SECRET}@one:4222",
        vllm_proxy=f"http://user:{SECRET}@proxy:3128",
        vllm_headers=f"X-Key: {SECRET}",
        http_port=1,
    )
    rows = {name: value for name, value, _ in shown(settings)}
    assert rows["NATS_URL"] == "nats://***@one:4222,nats://***@two:4222"
    assert rows["VLLM_URL"] == "http://***@gpu:8000"
    assert rows["RAY_ADDRESS"] == "ray://***@head:10001"
    assert rows["PARLEY_VLLM_PROXY"] == "http://***@proxy:3128"
    assert rows["PARLEY_VLLM_HEADERS"] == "***"
    assert rows["PARLEY_HTTP_PORT"] == "1"
    assert SECRET not in str(rows)
    settings = load(vllm_api_key=SECRET)
    rows = {name: value for name, value, _ in shown(settings)}
    assert (rows["VLLM_API_KEY"], rows["RAY_ADDRESS"]) == ("***", "")
    assert SECRET not in repr(settings.vllm_api_key)


def test_a_user_in_a_url_beside_a_key_is_an_error_that_names_both() -> None:
    urls = f"http://gpu-1:8000,http://user:{SECRET}@gpu-2:8000"
    (problem,) = problems(vllm_url=urls, vllm_api_key="sesame")
    assert "VLLM_API_KEY" in problem
    assert "VLLM_URL" in problem
    assert SECRET not in problem
    assert load(vllm_url=urls).vllm_api_key is None


def test_every_setting_is_shown_once_with_its_meaning() -> None:
    rows = shown(load())
    assert [name for name, _, _ in rows] == [variable(field) for field in Settings.model_fields]
    assert all(len(meaning) > 10 for _, _, meaning in rows)


def test_the_table_for_the_readme_lists_every_setting_with_its_default(tmp_path: Path) -> None:
    # As the generator runs it, in an environment that sets something: a default is not what happens to be set here.
    environment = {**os.environ, "PARLEY_HTTP_PORT": "1", "XDG_STATE_HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-m", "parley.settings"], capture_output=True, text=True, env=environment,
        check=True, timeout=30,
    )  # fmt: skip
    head, rule, *rows = run.stdout.strip().split("\n")
    assert run.stdout.strip() == table()
    assert (head, rule) == ("| variable | default | meaning |", "|---|---|---|")
    assert len(rows) == len(Settings.model_fields)
    for row, field in zip(rows, Settings.model_fields, strict=True):
        assert row.startswith(f"| `{variable(field)}` | ")
        assert row.count("|") == 4
    assert "| `PARLEY_HTTP_PORT` | `9464` |" in run.stdout
    assert "| `PARLEY_HOME` | `~/.local/state/parley` |" in run.stdout
    assert "| `NATS_URL` |  |" in run.stdout


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ({"RAY_ADDRESS": " auto\n"}, "auto"),
        ({"RAY_ADDRESS": ""}, None),
        ({"RAY_ADDRESS": "theirs:6379", "PARLEY_RAY_ADDRESS": ""}, None),
        ({"RAY_ADDRESS": "theirs:6379", "PARLEY_RAY_ADDRESS": "local"}, "local"),
        ({"RAY_ADDRESS": "theirs:6379", "PARLEY_RAY_ADDRESS": "auto"}, "auto"),
    ],
    ids=str,
)
def test_rays_variable_gives_way_to_ours(
    given: dict[str, str], address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert load().ray_address == address
