"""The file of model servers: what it says, and each mistake by its line and its key."""

import re
import time
from pathlib import Path

import certifi
import pytest

from parley.broker.core.errors import SettingsError
from parley.endpoints_file import MAX_BYTES, read_endpoints
from parley.settings import load
from parley.workers.model.model_server import ModelServer
from parley.workers.model.request_fields import FieldRules

TOML = """
[[endpoints]]
url = "https://api.example.com/v1"
models = ["large", "small"]
key = { env = "SOME_KEY" }
key_header = "api-key"
headers = { X-Org = "us", X-Secret = { file = "secret.txt" } }
query = { api-version = "preview" }
ca_file = "ca.pem"
proxy = { env = "SOME_PROXY" }
concurrency = 64
tokens_per_minute = 200_000
omit = ["seed", "stream_options"]
rename = { max_tokens = "max_completion_tokens" }
system_message = false
weight = 2

[[endpoints]]
url = "http://gpu-1:8000"
"""
YAML = """
endpoints:
  - url: https://api.example.com/v1
    models: [large, small]
    key: {env: SOME_KEY}
    key_header: api-key
    headers: {X-Org: us, X-Secret: {file: secret.txt}}
    query: {api-version: preview}
    ca_file: ca.pem
    proxy: {env: SOME_PROXY}
    concurrency: 64
    tokens_per_minute: 200000
    omit: [seed, stream_options]
    rename: {max_tokens: max_completion_tokens}
    system_message: false
    weight: 2
  - url: http://gpu-1:8000
    models: ask
"""


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "swordfish-1\n")
    monkeypatch.setenv("SOME_PROXY", "http://user:swordfish-3@proxy:3128")
    (tmp_path / "secret.txt").write_text("swordfish-2\n")
    (tmp_path / "ca.pem").write_text(Path(certifi.where()).read_text())


def written(folder: Path, text: str, name: str = "endpoints.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(("text", "name"), [(TOML, "a.toml"), (YAML, "a.yaml"), (YAML, "a.yml")])
def test_everything_that_a_server_may_need(text: str, name: str, tmp_path: Path) -> None:
    first, second = read_endpoints(written(tmp_path, text, name))
    assert first.url == "https://api.example.com/v1?api-version=preview"
    assert first.models == ("large", "small")
    assert (first.api_key, first.access.key_header) == ("swordfish-1", "api-key")
    assert first.access.headers == (("X-Org", "us"), ("X-Secret", "swordfish-2"))
    assert first.access.certificates == Path(certifi.where()).read_text()
    assert first.access.proxy == "http://user:swordfish-3@proxy:3128"
    assert (first.concurrency, first.tokens_per_minute, first.weight) == (64, 200_000, 2.0)
    assert first.access.fields == FieldRules(
        frozenset({"seed", "stream_options"}),
        (("max_tokens", "max_completion_tokens"),),
        system_message=False,
    )
    assert (first.access.names.url, first.access.names.key) == (
        f"endpoint 1 in {name}",
        f"`key` of endpoint 1 in {name}",
    )
    assert (second.url, second.models, second.limited) == ("http://gpu-1:8000", None, False)
    assert "swordfish" not in repr(first)


def test_without_a_file_there_are_none() -> None:
    assert read_endpoints(None) == ()


ENTRY = '[[endpoints]]\nurl = "http://one"\n'


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "`endpoints`: is missing"),
        ("endpoints = []\n", 1, "`endpoints`"),
        ('[[endpoint]]\nurl = "http://one"\n', 1, "no such key; did you mean `endpoints`"),
        ("[[endpoints]]\nweight = 2\n", 1, "`url`: is missing"),
        (f'{ENTRY}concurency = 3\n', 3, "`concurency`: no such key; did you mean `concurrency`"),
        (f"{ENTRY}colour = 3\n", 3, "`colour`: no such key; there are url, models"),
        (f"{ENTRY}concurrency = 0\n", 3, "`concurrency`: should be greater than or equal to 1"),
        (f"{ENTRY}concurrency = 1.5\n", 3, "`concurrency`"),
        (f"{ENTRY}concurrency = true\n", 3, "`concurrency`"),
        (f'{ENTRY}concurrency = "9"\n', 3, "`concurrency`"),
        (f"{ENTRY}tokens_per_minute = -1\n", 3, "`tokens_per_minute`"),
        (f"{ENTRY}weight = 0\n", 3, "`weight`"),
        (f"{ENTRY}weight = nan\n", 3, "`weight`"),
        (f"{ENTRY}models = []\n", 3, "`models`: is \"ask\", or a list of 1 to 256 names"),
        (f'{ENTRY}models = "gpt"\n', 3, "`models`"),
        (f'{ENTRY}models = ["a", 3]\n', 3, "`models`"),
        (f'{ENTRY}key = "swordfish-1"\n', 3, "`key`: not { env = "),
        (f'{ENTRY}key = {{ env = "A", file = "b" }}\n', 3, "`key`: not { env = "),
        (f'{ENTRY}key = {{ env = "NOT_SET_AT_ALL" }}\n', 3, "`key`: the variable NOT_SET_AT_ALL is not set"),
        (f'{ENTRY}key = {{ file = "no-such" }}\n', 3, "no-such: No such file or directory"),
        (f'{ENTRY}headers = {{ "X-A" = "swordfish-1", "Content-Type" = "x" }}\n', 3, "Content-Type is set by Parley itself"),
        (f'{ENTRY}[endpoints.headers]\nX-A = "x"\n"X B" = "swordfish-1"\n', 5, "`headers.X B`"),
        (f'{ENTRY}headers = "X-A: swordfish-1"\n', 3, "`headers`: is no table"),
        ('[[endpoints]]\nurl = "http://me:swordfish-1@a:8000"\nkey = { env = "SOME_KEY" }\n', 3, "`key`: `key` of endpoint 1 in"),
        (f'{ENTRY}ca_file = "nope.pem"\n', 3, "`ca_file`: is of no use: neither `url` nor `proxy` begins with https"),
        (f'{ENTRY}key = {{ env = "SOME_KEY" }}\nheaders = {{ Authorization = "swordfish-1" }}\n', 4, "servers take one `authorization`"),
        (f'{ENTRY}query = {{ code = 3 }}\n', 3, "`query.code`"),
        ('[[endpoints]]\nurl = "https://one"\nca_file = "secret.txt"\n', 3, "`ca_file`: \\S+ holds no certificate in PEM"),
        (f'{ENTRY}proxy = "socks5://swordfish-1@h"\n', 3, "`proxy`: not one URL like"),
        (f'{ENTRY}omit = ["messages"]\n', 3, "`omit`: messages: only these can be left out"),
        (f'{ENTRY}rename = {{ seed = "model" }}\n', 3, "`rename`: seed=model"),
        (f'{ENTRY}key_header = "a b"\n', 3, "`key_header`: not the name of a header"),
        (f'{ENTRY}system_message = "no"\n', 3, "`system_message`"),
        ('[[endpoints]]\nurl = "gpu-1:8000"\n', 2, "`url`: not a URL like"),
        ('[[endpoints]]\nurl = "http://one,http://two"\n', 2, "`url`: one address"),
        (f'{ENTRY}\n[[endpoints]]\nurl = "http://one/v1"\n', 5, "`url`: another endpoint has this address too"),
        (f"{ENTRY}models = [\n", 3, "."),
        (f'{ENTRY}url = "http://two"\n', 3, "Cannot overwrite a value"),
        (f"{ENTRY}weight : 2\n", 3, "Expected '=' after a key"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_by_its_line_and_its_key(text: str, line: int, words: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}, line {line}[,:] .*{words}") as caught:
        read_endpoints(path)
    assert "swordfish" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (
            "endpoints:\n  - url: http://one\n    weigth: 2\n",
            3,
            "`weigth`: no such key; did you mean `weight`",
        ),
        ("endpoints:\n  - url: http://one\n    url: http://two\n", 3, "`url` is there twice"),
        ("endpoints:\n  - url: [http://one\n", 3, "."),
        ("endpoints:\n  - http://one\n", 2, "is no mapping"),
        ("- url: http://one\n", 1, "`endpoints`: is no mapping"),
        ("endpoints:\n  - url: !!python/name:os.system\n", 2, "constructor"),
        ("", 1, "`endpoints`: is no mapping"),
    ],
)
def test_a_mistake_in_yaml_too(text: str, line: int, words: str, tmp_path: Path) -> None:
    path = written(tmp_path, text, "endpoints.yaml")
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}, line {line}[,:] .*{words}"):
        read_endpoints(path)


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("endpoints:\n  - url: http://one\n    concurrency: !!int ''\n", "a.yaml", "is not YAML: .*texts belong in quotes"),
        ("endpoints:\n  - url: http://one\n    query: {v: 2024-13-01}\n", "a.yaml", "is not YAML: month must be"),
        ("a = " + "[" * 3_000, "a.toml", "a.toml"),
        ("a: " + "[" * 3_000, "a.yaml", "a.yaml"),
    ],
)  # fmt: skip
def test_what_breaks_a_reader_is_told_as_a_mistake(text: str, name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        read_endpoints(written(tmp_path, text, name))


def test_a_date_that_should_be_a_text_is_told_so(tmp_path: Path) -> None:
    path = written(tmp_path, "endpoints:\n  - url: http://one\n    query: {v: 2024-02-01}\n", "a.yaml")
    with pytest.raises(ValueError, match=r"line 3, `query\.v`: no text \(in quotes: "):
        read_endpoints(path)


def test_one_server_in_two_spellings_is_one(tmp_path: Path) -> None:
    path = written(tmp_path, ENTRY + ENTRY.replace("http://one", "http://ONE:80/v1/"))
    with pytest.raises(ValueError, match="another endpoint has this address too"):
        read_endpoints(path)


def test_many_mistakes_in_many_entries_are_told_soon(tmp_path: Path) -> None:
    entries = "".join(f'[[endpoints]]\nurl = "http://gpu-{number}"\nweigth = 2\n' for number in range(256))
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"line 3, `weigth`.*; and 251 more"):
        read_endpoints(written(tmp_path, entries + "\n"))
    assert time.monotonic() - began < 5


def test_two_mistakes_are_told_together(tmp_path: Path) -> None:
    path = written(tmp_path, f"{ENTRY}weight = 0\nconcurrency = 0\n")
    with pytest.raises(ValueError, match=r"line 4, `concurrency`.*; .*line 3, `weight`"):
        read_endpoints(path)


def test_what_is_no_such_file_is_told_by_its_name(tmp_path: Path) -> None:
    for path, words in [
        (tmp_path / "none.toml", "No such file"),
        (tmp_path, "Is a directory"),
        (written(tmp_path, TOML, "endpoints.json"), "ends with .toml, .yaml or .yml"),
        (written(tmp_path, "#" * (MAX_BYTES + 1)), "has more than 256 KiB"),
    ]:
        with pytest.raises(ValueError, match=words):
            read_endpoints(path)
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    with pytest.raises(ValueError, match="is not UTF-8"):
        read_endpoints(tmp_path / "latin.toml")


def test_a_wrong_file_is_refused_when_the_settings_are_loaded(tmp_path: Path) -> None:
    path = written(tmp_path, f"{ENTRY}weight = 0\n")
    with pytest.raises(SettingsError) as caught:
        load(endpoints=path)
    assert list(caught.value.problems) == [
        f"PARLEY_ENDPOINTS: {path}, line 3, `weight`: should be greater than 0"
    ]


def test_the_servers_of_both_settings_are_asked_but_none_twice(tmp_path: Path) -> None:
    path = written(tmp_path, ENTRY)
    two = load(vllm_url="http://other", vllm_api_key="k", endpoints=path).servers
    assert two[0] == ModelServer("http://other", "k")
    assert (two[1].url, two[1].api_key) == ("http://one", None)
    with pytest.raises(SettingsError, match=r"endpoint 1 in endpoints\.toml: VLLM_URL names http://one too"):
        load(vllm_url="http://one/", endpoints=path)
