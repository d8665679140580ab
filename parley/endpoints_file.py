"""The model servers of a file (PARLEY_ENDPOINTS), TOML or YAML: each with its own key, models, limits and fields.

[[endpoints]]
url = "https://api.openai.com/v1"
models = ["gpt-5-mini"]                # or "ask": what it lists
key = { env = "OPENAI_API_KEY" }       # or { file = "/run/secrets/openai" }
concurrency = 64                       # calls at once, of all workers together
tokens_per_minute = 200_000
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from parley.broker.core.messages.base import KIB
from parley.line_of_key import Key, line_in_toml, line_in_yaml, twice_in_yaml
from parley.model_server_setting_types import (
    certificates,
    check_headers,
    clean_key,
    key_header,
    proxy_url,
    server_urls,
)
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.model_server import ModelServer
from parley.workers.model.request_fields import FieldRules, parse_omit, parse_rename
from parley.workers.model.server_access import TOKEN, Names, ServerAccess, parse_headers

MAX_BYTES = 256 * KIB
MAX_ENDPOINTS = 256
MAX_MODELS = 256
# Mistakes that are told at once.
MAX_TOLD = 5
TOML, YAML = (".toml",), (".yaml", ".yml")
_ELSEWHERE = 'not { env = "NAME" } or { file = "/path" }, which say where it is'
# What tomllib says of where it stopped.
_AT_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Elsewhere(NamedTuple):
    """A secret that is not in the file: a variable's name, or another file's."""

    env: str | None
    file: str | None


def _elsewhere(value: Any) -> _Elsewhere:
    named = set(value) in ({"env"}, {"file"}) if isinstance(value, dict) else False
    if not named or not all(isinstance(place, str) and place for place in value.values()):
        raise ValueError(_ELSEWHERE)
    return _Elsewhere(value.get("env"), value.get("file"))


def _value(value: Any) -> str | _Elsewhere:
    if isinstance(value, dict):
        return _elsewhere(value)
    if not isinstance(value, str) or not value:
        said = 'no text (in quotes: "2024-02-01"), and no { env = "NAME" } or { file = "/path" }'
        raise PydanticCustomError("value", said)
    return value


def _models(value: Any) -> tuple[str, ...] | None:
    if value == "ask":
        return None
    texts = isinstance(value, list) and all(isinstance(name, str) and name.strip() for name in value)
    if not texts or not 0 < len(value) <= MAX_MODELS:
        raise ValueError(f'is "ask", or a list of 1 to {MAX_MODELS} names')
    return tuple(dict.fromkeys(name.strip() for name in value))


Text = Annotated[str, Field(min_length=1, max_length=4_096)]
# A key is never in the file; of the others, not each is secret.
Secret = Annotated[Any, AfterValidator(_elsewhere)]
Value = Annotated[Any, AfterValidator(_value)]


class _Endpoint(_Entry):
    url: Text
    models: Annotated[Any, AfterValidator(_models)] = None
    key: Secret = None
    key_header: Text = "Authorization"
    headers: dict[str, Value] = {}
    query: dict[str, Value] = {}
    ca_file: Text | None = None
    proxy: Value = None
    concurrency: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1, le=10**12, strict=True)] | None = None
    omit: list[str] = []
    rename: dict[str, str] = {}
    system_message: Annotated[bool, Field(strict=True)] = True
    weight: Annotated[float, Field(gt=0, le=1_000, allow_inf_nan=False)] = 1.0


class _File(_Entry):
    endpoints: Annotated[list[_Endpoint], Field(min_length=1, max_length=MAX_ENDPOINTS)]


def read_endpoints(path: Path | None) -> tuple[ModelServer, ...]:
    """The servers of the file; none without one. Files that it names are looked for beside it. Raises ValueError: each
    mistake with the file, the line and the key, and without a value that may be secret."""
    if path is None:
        return ()
    text = _text(path)
    found = _parsed(path, text)
    try:
        entries = _File.model_validate(found).endpoints
    except ValidationError as error:
        details = [dict(detail) for detail in error.errors(include_url=False, include_context=False)]
        told = dict.fromkeys(_mistake(path, text, each) for each in details[:MAX_TOLD])
        more = [f"and {len(details) - MAX_TOLD} more"] if len(details) > MAX_TOLD else []
        raise ValueError("; ".join([*told, *more])) from None
    servers: list[ModelServer] = []
    for number, entry in enumerate(entries):
        try:
            server = _server(path, number, entry, servers)
        except _Wrong as wrong:
            raise ValueError(_told(path, text, ("endpoints", number, *wrong.key), wrong.why)) from None
        servers.append(server)
    return tuple(servers)


class _Wrong(Exception):
    """`key`: within an endpoint."""

    def __init__(self, key: str | Key, why: str) -> None:
        super().__init__(key, why)
        self.key = (key,) if isinstance(key, str) else tuple(key)
        self.why = why


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────


def _text(path: Path) -> str:
    try:
        with path.open("rb") as opened:
            body = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    if len(body) > MAX_BYTES:
        raise ValueError(f"{path} has more than {MAX_BYTES // KIB} KiB")
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8") from None


def _parsed(path: Path, text: str) -> Any:
    if path.suffix in TOML:
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            at = _AT_LINE.search(str(error))
            line = (at and at[1]) or len(text.splitlines())
            raise ValueError(f"{path}, line {line}: {_AT_LINE.sub('', str(error))}") from None
        except RecursionError:
            raise ValueError(f"{path} is too deep") from None
    if path.suffix in YAML:
        try:
            twice, found = twice_in_yaml(text), yaml.safe_load(text)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise ValueError(f"{path}, line {line}: {error.problem}") from None
        except (yaml.YAMLError, ValueError, LookupError, RecursionError) as error:
            # Of a date or a number that is none, PyYAML raises what Python does, and says no line.
            said = " ".join(str(error).split()) or "what no reader takes"
            raise ValueError(f"{path} is not YAML: {said}; texts belong in quotes") from None
        if twice is not None:
            raise ValueError(f"{path}, line {twice[1]}: `{twice[0]}` is there twice")
        return found
    raise ValueError(f"{path}: its name ends with .toml, .yaml or .yml")


def _mistake(path: Path, text: str, detail: Mapping[str, Any]) -> str:
    """A mistake that pydantic found."""
    key = tuple(detail["loc"])
    why = str(detail["msg"]).removeprefix("Value error, ").replace("Input should", "should", 1)
    known = _Endpoint.model_fields if len(key) == 3 else _File.model_fields if len(key) == 1 else {}
    match detail["type"]:
        case "extra_forbidden":
            close = difflib.get_close_matches(str(key[-1]), known, n=1)
            why = (
                f"no such key; did you mean `{close[0]}`?"
                if close
                else f"no such key; there are {', '.join(known)}"
            )
        case "missing":
            why = "is missing"
        case "model_type" | "model_attributes_type" | "dict_type":
            why = "is no table of keys and values" if path.suffix in TOML else "is no mapping"
    return _told(path, text, key, why)


def _told(path: Path, text: str, key: Key, why: str) -> str:
    line = (line_in_toml if path.suffix in TOML else line_in_yaml)(text, key) if key else 1
    named = (
        ".".join(str(part) for part in key if isinstance(part, str) and part != "endpoints") or "endpoints"
    )
    return f"{path}, line {line}, `{named}`: {why}"


# ── a server ────────────────────────────────────────────────────────────────────────────────────────────────


def _server(path: Path, number: int, entry: _Endpoint, others: Sequence[ModelServer]) -> ModelServer:
    """Raises _Wrong."""
    which = f"endpoint {number + 1} in {path.name}"
    names = Names(
        key=f"`key` of {which}",
        url=which,
        headers=f"`headers` of {which}",
        certificates=f"`ca_file` of {which}",
        proxy=f"`proxy` of {which}",
        fields=f"`omit` and `rename` of {which}",
    )
    url = _url(path, entry)
    if any(Endpoint(url).identity == other.endpoint.identity for other in others):
        raise _Wrong("url", "another endpoint has this address too")
    api_key = _checked("key", lambda: entry.key and clean_key(_secret(path, entry.key)))
    headers = _headers(path, entry)
    proxy = _checked("proxy", lambda: entry.proxy and proxy_url(_found(path, entry.proxy)))
    access = ServerAccess(
        key_header=_checked("key_header", lambda: key_header(entry.key_header)),
        headers=headers,
        certificates=_checked("ca_file", lambda: _certificates(path, entry, url, proxy)),
        proxy=proxy,
        fields=FieldRules(
            _checked("omit", lambda: parse_omit(",".join(entry.omit))),
            _checked(
                "rename", lambda: parse_rename(",".join("=".join(pair) for pair in entry.rename.items()))
            ),
            system_message=entry.system_message,
        ),
        names=names,
    )
    filled_by_key = access.key_header if api_key else None
    _checked("key", lambda: check_headers(filled_by_key, [url], (), names))
    _checked("headers", lambda: check_headers(filled_by_key, [url], headers, names))
    limits = entry.concurrency, entry.tokens_per_minute
    return ModelServer(url, api_key, access, entry.models, *limits, entry.weight)


def _checked(key: str | Key, read: Any) -> Any:
    try:
        return read()
    except ValueError as error:
        raise _Wrong(key, str(error)) from None


def _url(path: Path, entry: _Endpoint) -> str:
    if "," in entry.url:
        raise _Wrong("url", "one address; each server has its own entry")
    _checked("url", lambda: server_urls(entry.url))
    url = entry.url.strip()
    if not entry.query:
        return url
    pairs = {
        name: _checked(("query", name), lambda value=value: _found(path, value))
        for name, value in entry.query.items()
    }
    parts = urlsplit(url)
    return parts._replace(query="&".join(filter(None, (parts.query, urlencode(pairs))))).geturl()


def _headers(path: Path, entry: _Endpoint) -> tuple[tuple[str, str], ...]:
    values = {
        name: _checked(("headers", name), lambda value=value: _found(path, value))
        for name, value in entry.headers.items()
    }
    for name, value in values.items():
        if not TOKEN.fullmatch(name):
            raise _Wrong(("headers", name), "not the name of a header")
        _checked(("headers", name), lambda pair=(name, value): parse_headers(json.dumps(dict([pair]))))
    found: tuple[tuple[str, str], ...] = _checked("headers", lambda: parse_headers(json.dumps(values)))
    return found


def _certificates(path: Path, entry: _Endpoint, url: str, proxy: str | None) -> str | None:
    if not any(part.lower().startswith("https:") for part in (url, proxy or "")):
        if entry.ca_file is not None:
            raise ValueError("is of no use: neither `url` nor `proxy` begins with https")
        return None
    return certificates(None if entry.ca_file is None else path.parent / entry.ca_file)


def _found(path: Path, value: str | _Elsewhere) -> str:
    return value if isinstance(value, str) else _secret(path, value)


def _secret(path: Path, where: _Elsewhere) -> str:
    """Raises ValueError."""
    if where.env is not None:
        found = os.environ.get(where.env, "").strip()
        if not found:
            raise ValueError(f"the variable {where.env} is not set")
        return found
    file = path.parent / (where.file or "")
    try:
        with file.open("rb") as opened:
            found = opened.read(64 * KIB).decode("utf-8-sig").strip()
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not UTF-8") from None
    if not found:
        raise ValueError(f"{file} is empty")
    return found
