"""The service's settings: name, default, bound and meaning of each. Reads the environment.

Names are `PARLEY_…`. A few plain names that others share are read too (NATS_URL, RAY_ADDRESS, VLLM_URL, VLLM_MODEL,
VLLM_API_KEY); `PARLEY_…` wins. The README's table is generated from this file (`python -m parley.settings`). A client
reads none of this (`parley.find_nats`).
"""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import (
    AliasChoices,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import SettingsConfigDict

from parley.broker.core.errors import SettingsError
from parley.broker.core.messages.base import KIB, MAX_AGENTS, MAX_TIMEOUT_SECONDS, TimeoutSeconds
from parley.broker.core.reply_subjects import is_allowed_prefix
from parley.broker.core.url_masking import masked
from parley.broker.jetstream import topology
from parley.broker.jetstream.provision import Wanted
from parley.endpoints_file import read_endpoints
from parley.find_nats import announced, default_state_folder
from parley.log_format import LogFormat
from parley.model_server_setting_types import (
    CaFile,
    EndpointsFile,
    Headers,
    KeyHeader,
    OmittedFields,
    ProxyUrl,
    RenamedFields,
    RolesFolder,
    certificates,
    check_headers,
    clean_key,
    server_urls,
)
from parley.nats_settings import NatsSettings
from parley.role_files import read_roles
from parley.workers.model.breaker import BreakerPolicy
from parley.workers.model.call_policy import CallTimeouts, RetryPolicy
from parley.workers.model.model_server import ModelServer
from parley.workers.model.request_fields import FieldRules, parse_omit, parse_rename
from parley.workers.model.server_access import ServerAccess, parse_headers
from parley.workers.pool.worker_config import WorkerConfig

PREFIX = "PARLEY_"
# Kubernetes sets these in every pod beside a Service named `parley` or `parley-something` ("service links").
_SERVICE_LINK = re.compile(
    r"PARLEY(_[A-Z0-9_]+)?_"
    r"(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)"
)
# `PARLEY_PORT` is one too, but only with a value like this: a number there was meant as a setting.
_SERVICE_LINK_PORT = re.compile(r"PARLEY(_[A-Z0-9_]+)?_PORT=(tcp|udp|sctp)://.*")
# A field with one of these in its name: its value is in no error.
_SECRET_WORDS = ("url", "key", "headers", "proxy")
Finite = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _field(default: object, meaning: str, shared: str | None = None, **bounds: float) -> Any:
    """A setting. `shared`: a plain name that is read too. Any, as pydantic's `Field`: what it makes is a default."""
    alias = AliasChoices(f"{PREFIX}{shared}", shared) if shared else None
    return Field(default, description=meaning, validation_alias=alias, **cast(dict[str, Any], bounds))


class Settings(NatsSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True, populate_by_name=True)

    # fmt: off
    ray_address: str | None = _field(
        None, "Ray cluster to join, of which this machine is a node: `auto` or `host:6379`. Without it, or with `local`, a "
        "local Ray is started.",
        "RAY_ADDRESS")
    vllm_url: str | None = _field(
        None, "OpenAI-compatible servers, comma-separated; a bare host gets `/v1`. `parley up` starts one itself.", "VLLM_URL")
    vllm_model: str | None = _field(
        None, "Model asked for. Without it, the first that the server lists.", "VLLM_MODEL")
    vllm_api_key: SecretStr | None = _field(None, "Key for the servers, a bearer token.", "VLLM_API_KEY")
    vllm_api_key_header: KeyHeader = _field(
        "Authorization", "Header of the key. In another one, such as `api-key`, it stands without `Bearer`.")
    vllm_headers: Headers = _field(
        None, "More headers of every call: a JSON object, or `Name: value` lines.")
    vllm_ca_file: CaFile = _field(
        None, "PEM file of authorities trusted beside the public ones; else that of SSL_CERT_FILE.")
    vllm_proxy: ProxyUrl = _field(
        None, "Proxy to the servers: `http://user:password@host:3128`. HTTP_PROXY and the like are not read.")
    endpoints: EndpointsFile = _field(
        None, "TOML or YAML file of more servers, each with its own key, models, limits and fields (docs/endpoints.md).")
    vllm_omit: OmittedFields = _field("", "Fields never sent, such as `seed,stream_options`.")
    vllm_rename: RenamedFields = _field("", "Fields with another name: `max_tokens=max_completion_tokens`.")
    roles_dir: RolesFolder = _field(
        None, "Folder of Markdown files, one a role (`QA.md`): instructions instead of ours, or of more roles.")
    vllm_stream: bool = _field(
        False, "Read answers as a stream: a silent server is noticed at the first byte.")
    vllm_connect_timeout_seconds: Seconds = _field(5.0, "To open a connection.")
    vllm_first_byte_timeout_seconds: Seconds = _field(30.0, "To the response's headers. Streamed calls only.")
    vllm_total_timeout_seconds: Seconds | None = _field(
        None, "One whole call. Without it, what is left of the deadline.")
    retry_attempts: int = _field(
        6, "Calls an agent may make in all, for passing trouble (429, 5xx, reset).", ge=1, le=100)
    retry_base_seconds: Seconds = _field(0.25, "First backoff, doubled each time, with full jitter.")
    retry_cap_seconds: Seconds = _field(10.0, "Longest backoff.")
    breaker_failures: int = _field(
        5, "Failures in a row, of any agents of a worker, after which it leaves a server alone.",
        ge=1, le=1000)
    breaker_cooldown_seconds: Finite = _field(
        1.0, "Until it probes that server, doubled up to 5 times this, half of it jitter.", gt=0, le=60)

    pool: Literal["ray", "local"] = _field("ray", "Where agents run: Ray actors, or this process (`local`).")
    pool_actors: int = _field(2, "Ray actors of one dispatcher.", ge=1, le=1024)
    pool_slots: int = _field(
        256, "Calls one actor runs at once. vLLM's own default is 256 sequences.", ge=1, le=16_384)
    ray_actor_cpus: Finite = _field(1.0, "CPUs Ray reserves for one actor.", ge=0, le=64)

    max_agents: int = _field(MAX_AGENTS, "Most agents of one deliberation.", ge=1, le=MAX_AGENTS)
    timeout_seconds: TimeoutSeconds = _field(
        300.0, "Deadline of a request that names none, queueing included.")
    keep_seconds: Finite = _field(
        3_600.0, "How long a tally outlives its ending.", ge=180, le=MAX_TIMEOUT_SECONDS)
    claim_check_bytes: int = _field(
        512 * KIB, "Endings above this put their results into the object store.", ge=KIB, le=64 * KIB * KIB)
    reply_prefixes: str = _field(
        "_INBOX.", "Subjects that endings and answers may be sent to, by prefix, comma-separated.")
    replicas: int = _field(1, "Replicas of every stream. Production: 3.", ge=1, le=5)
    storage_bytes: int | None = _field(
        None, "Storage that the streams share. Without it, what NATS promises: at most 16 GiB.",
        ge=topology.SMALLEST_BUDGET_BYTES)
    ack_wait_seconds: Seconds = _field(
        topology.ACK_WAIT_SECONDS, "After this, unsettled work goes to somebody else.")
    drain_seconds: Finite = _field(20.0, "For running calls to finish at a stop.", ge=0, le=3_600)

    http_host: str = _field("127.0.0.1", "Where /metrics, /livez, /readyz and /docs listen.")
    http_port: int = _field(9464, "Their port; 0 takes a free one.", ge=0, le=65_535)
    gateway_host: str = _field("127.0.0.1", "Where the gateway listens.")
    gateway_port: int = _field(8470, "Its port for HTTP; 0 takes a free one.", ge=0, le=65_535)
    gateway_grpc_port: int = _field(8471, "Its port for gRPC; 0 takes a free one.", ge=0, le=65_535)
    gateway_tenants: Path | None = _field(
        None, "TOML file of who may ask there, and how much (docs/gateway.md). Without it, anybody on this machine.")
    gateway_panels: Path | None = _field(None, "TOML file of panels that are offered as models.")
    gateway_open: bool = _field(False, "Let other machines in without a token.")
    home: Path = Field(default_factory=default_state_folder,
        description="Where `parley up` keeps its NATS data and says where it listens.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = _field("INFO", "Of our own log lines.")
    log_format: LogFormat = _field("text", "Of log lines: `text`, or `json` for one object a line.")
    # fmt: on

    # Read once: a file that changes meanwhile must not be half in force.
    _of_file: tuple[ModelServer, ...] = PrivateAttr(())

    @field_validator("ray_address", "vllm_url", "vllm_model", mode="before")
    @classmethod
    def _blank_is_unset(cls, value: Any) -> Any:
        return None if isinstance(value, str) and not value.strip() else value

    @field_validator("vllm_api_key", mode="before")
    @classmethod
    def _key_fits_a_header(cls, value: Any) -> Any:
        return clean_key(value) if isinstance(value, str) else value

    @field_validator("home", mode="before")
    @classmethod
    def _blank_is_the_usual_place(cls, value: Any) -> Any:
        return default_state_folder() if isinstance(value, str) and not value.strip() else value

    @field_validator("vllm_url")
    @classmethod
    def _vllm_urls(cls, value: str | None) -> str | None:
        return server_urls(value)

    @field_validator("ray_address")
    @classmethod
    def _ray_address_alone(cls, value: str | None) -> str | None:
        return value and value.strip()  # a line feed from a file, say

    @field_validator("reply_prefixes")
    @classmethod
    def _prefixes(cls, value: str) -> str:
        for prefix in (part.strip() for part in value.split(",")):
            if not is_allowed_prefix(prefix):
                rule = "each prefix ends with a dot and is none of Parley's or the server's own subjects"
                raise ValueError(rule)
        return value

    @model_validator(mode="after")
    def _backoff_fits(self) -> Self:
        if self.retry_base_seconds > self.retry_cap_seconds:
            raise ValueError("PARLEY_RETRY_BASE_SECONDS is more than PARLEY_RETRY_CAP_SECONDS")
        return self

    @model_validator(mode="after")
    def _each_header_once(self) -> Self:
        key_header = self.vllm_api_key_header if self.vllm_api_key else None
        check_headers(key_header, self.vllm_urls, self.access.headers)
        return self

    @model_validator(mode="after")
    def _servers_of_the_file(self) -> Self:
        if self.endpoints is not None:
            try:
                self._of_file = self.read_servers()[len(self.vllm_urls) :]
            except ValueError as error:
                raise ValueError(f"PARLEY_ENDPOINTS: {error}") from None
        return self

    def with_local_nats(self) -> Self:
        """These settings, with the NATS of this user's running `parley up` where none is set."""
        found = None if self.nats_url else announced(self.home)
        return self.at_local_nats(found) if found else self

    @property
    def vllm_urls(self) -> tuple[str, ...]:
        return tuple(part.strip() for part in (self.vllm_url or "").split(",") if part.strip())

    @property
    def has_servers(self) -> bool:
        return bool(self.vllm_urls) or self.endpoints is not None

    @property
    def servers(self) -> tuple[ModelServer, ...]:
        """Every model server: those of VLLM_URL, then those of the file as it was when the settings were loaded."""
        access = self.access
        return (*(ModelServer(url, self.api_key, access) for url in self.vllm_urls), *self._of_file)

    def read_servers(self) -> tuple[ModelServer, ...]:
        """The same, with the file as it is now. Raises ValueError if it has a mistake."""
        access = self.access
        named = [ModelServer(url, self.api_key, access) for url in self.vllm_urls]
        more = read_endpoints(self.endpoints)
        there = {server.endpoint.identity for server in named}
        if both := next((server for server in more if server.endpoint.identity in there), None):
            raise ValueError(f"{both.access.names.url}: VLLM_URL names {both.endpoint} too; leave one out")
        return (*named, *more)

    @property
    def allowed_reply_prefixes(self) -> tuple[str, ...]:
        return tuple(part.strip() for part in self.reply_prefixes.split(","))

    @property
    def api_key(self) -> str | None:
        return self.vllm_api_key.get_secret_value() if self.vllm_api_key else None

    @property
    def access(self) -> ServerAccess:
        """How the model servers are reached."""
        headers = parse_headers(self.vllm_headers.get_secret_value()) if self.vllm_headers else ()
        fields = FieldRules(parse_omit(self.vllm_omit), parse_rename(self.vllm_rename))
        uses_tls = any(url.lower().startswith("https:") for url in (*self.vllm_urls, self.vllm_proxy or ""))
        trusted = certificates(self.vllm_ca_file) if uses_tls else None
        return ServerAccess(self.vllm_api_key_header, headers, trusted, self.vllm_proxy, fields)

    @property
    def wanted(self) -> Wanted:
        """What the streams and consumers depend on."""
        limits = any(server.limited for server in self.servers)
        return Wanted(self.replicas, self.keep_seconds, self.ack_wait_seconds, self.storage_bytes, limits)

    @property
    def call_timeouts(self) -> CallTimeouts:
        first_byte, total = self.vllm_first_byte_timeout_seconds, self.vllm_total_timeout_seconds
        return CallTimeouts(self.vllm_connect_timeout_seconds, first_byte, total)

    def worker_config(self, nats_url: str, model: str) -> WorkerConfig:
        return WorkerConfig(
            nats_url=self.worker_nats_url or nats_url,
            servers=self.servers,
            model=model,
            timeouts=self.call_timeouts,
            retry=RetryPolicy(self.retry_attempts, self.retry_base_seconds, self.retry_cap_seconds),
            stream=self.vllm_stream,
            slots=self.pool_slots,
            ack_wait_seconds=self.ack_wait_seconds,
            drain_seconds=self.drain_seconds,
            breaker_policy=BreakerPolicy(self.breaker_failures, self.breaker_cooldown_seconds),
            nats_access=self.worker_nats_access,
            roles=read_roles(self.roles_dir),
        )


def load(**overrides: Any) -> Settings:
    """The settings from the environment; `overrides`, by field name, win.

    Raises SettingsError: one line a problem, naming the setting.
    """
    if unknown := sorted(set(overrides) - set(Settings.model_fields)):
        raise TypeError(f"no such field: {', '.join(unknown)}")
    if problems := misspelt(os.environ):
        raise SettingsError(problems)
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError([_problem(dict(detail)) for detail in error.errors(include_url=False)]) from None


def misspelt(variables_given: Mapping[str, str]) -> list[str]:
    """One problem for each unknown `PARLEY_…` name: ignored in silence, it would leave its author believing in it."""
    known = {name for field in Settings.model_fields for name in variables(field)}
    problems = []
    for name in sorted(variables_given):
        link = _SERVICE_LINK.fullmatch(name) or _SERVICE_LINK_PORT.fullmatch(
            f"{name}={variables_given[name]}"
        )
        if not name.upper().startswith(PREFIX) or name in known or link:
            continue
        # Compared without the prefix: it alone would make any two names look alike.
        bare = {n.removeprefix(PREFIX) for n in known if n.startswith(PREFIX)}
        close = difflib.get_close_matches(name.upper().removeprefix(PREFIX), sorted(bare), n=1)
        problems.append(f"{name}: no such setting" + (f"; did you mean {PREFIX}{close[0]}?" if close else ""))
    return problems


def variable(field: str) -> str:
    """The variable that sets a field: the plain name where there is one."""
    alias = Settings.model_fields[field].validation_alias
    return str(alias.choices[-1]) if isinstance(alias, AliasChoices) else f"{PREFIX}{field.upper()}"


def _problem(detail: dict[str, Any]) -> str:
    message = str(detail["msg"]).removeprefix("Value error, ")
    if not detail["loc"]:
        return message
    name = str(detail["loc"][0])
    field = next((f for f in Settings.model_fields if name in (f, *variables(f))), name)
    shown = "" if any(word in field for word in _SECRET_WORDS) else f" (it is {str(detail['input'])[:80]!r})"
    # The variable that is set: who set PARLEY_NATS_URL must not search for NATS_URL.
    known = variables(field) if field in Settings.model_fields else ()
    given = next((n for n in known if n in os.environ), variable(field) if known else name)
    return f"{given}: {message}{shown}"


def variables(field: str) -> tuple[str, ...]:
    """Every variable that sets a field, the one that wins first."""
    choices = dict.fromkeys((f"{PREFIX}{field.upper()}", variable(field)))
    return (*choices, *(choice.lower() for choice in choices))


def shown(settings: Settings) -> list[tuple[str, str, str]]:
    """(variable, value, meaning) of every setting, secrets masked."""
    rows = []
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        text = "" if value is None else str(value)
        if isinstance(value, SecretStr):
            text = "***"
        rows.append(
            (
                variable(name),
                masked(text) if any(word in name for word in ("url", "address", "proxy")) else text,
                field.description or "",
            )
        )
    return rows


def table() -> str:
    """The settings as a Markdown table, for README."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "~/.local/state/parley" if name == "home" else field.default
        shown_default = "" if default is None else f"`{default}`"
        lines.append(f"| `{variable(name)}` | {shown_default} | {field.description} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
