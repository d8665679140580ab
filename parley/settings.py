"""The service's settings: name, default, bound and meaning of each. Reads the environment.

Names are `PARLEY_…`. A few plain names that others share are read too (NATS_URL, RAY_ADDRESS, VLLM_URL, VLLM_MODEL,
VLLM_API_KEY); `PARLEY_…` wins. The README's table is generated from this file (`python -m parley.settings`). A client
reads none of this (`parley.local_service`).
"""

import difflib
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from parley.broker.core import messages
from parley.broker.core.errors import SettingsError
from parley.broker.core.urls import masked
from parley.broker.jetstream.topology import ACK_WAIT_SECONDS
from parley.local_service import announced, default_state_folder
from parley.workers.model.breaker import BreakerPolicy
from parley.workers.model.call_policy import CallTimeouts, RetryPolicy
from parley.workers.pool.pool import WorkerConfig

PREFIX = "PARLEY_"
# Kubernetes sets these in every pod beside a Service named `parley` or `parley-something` ("service links").
_SERVICE_LINK = re.compile(
    r"PARLEY(_[A-Z0-9_]+)?_"
    r"(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)"
)
# `PARLEY_PORT` is one too, but only with a value like this: a number there was meant as a setting.
_SERVICE_LINK_PORT = re.compile(r"PARLEY(_[A-Z0-9_]+)?_PORT=(tcp|udp|sctp)://.*")
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _plain(name: str) -> AliasChoices:
    return AliasChoices(f"{PREFIX}{name}", name)


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True, populate_by_name=True)

    nats_url: str | None = Field(
        None,
        validation_alias=_plain("NATS_URL"),
        description="NATS servers, comma-separated. `parley up` starts its own without it.",
    )
    ray_address: str | None = Field(
        None,
        validation_alias=_plain("RAY_ADDRESS"),
        description="Ray cluster to join: `auto`, `host:6379` or `ray://…`. Without it a local Ray is started.",
    )
    vllm_url: str | None = Field(
        None,
        validation_alias=_plain("VLLM_URL"),
        description="OpenAI-compatible servers, comma-separated. `parley up` simulates one without it.",
    )
    vllm_model: str | None = Field(
        None,
        validation_alias=_plain("VLLM_MODEL"),
        description="Model asked for. Without it, the first that the server lists.",
    )
    vllm_api_key: SecretStr | None = Field(
        None, validation_alias=_plain("VLLM_API_KEY"), description="Bearer token for the servers."
    )
    vllm_stream: bool = Field(
        False, description="Read answers as a stream: a silent server is noticed at the first byte."
    )
    vllm_connect_timeout_seconds: Seconds = Field(5.0, description="To open a connection.")
    vllm_first_byte_timeout_seconds: Seconds = Field(
        30.0, description="To the response's headers. Streamed calls only."
    )
    vllm_total_timeout_seconds: Seconds | None = Field(
        None, description="One whole call. Without it, what is left of the deadline."
    )
    retry_attempts: int = Field(
        6, ge=1, le=100, description="Calls an agent may make in all, for passing trouble (429, 5xx, reset)."
    )
    retry_base_seconds: Seconds = Field(
        0.25, description="First backoff, doubled each time, with full jitter."
    )
    retry_cap_seconds: Seconds = Field(10.0, description="Longest backoff.")
    breaker_failures: int = Field(
        5,
        ge=1,
        le=1000,
        description="Failures in a row, of any agents of a worker, after which it leaves a server alone.",
    )
    breaker_cooldown_seconds: float = Field(
        1.0,
        gt=0,
        le=60,
        allow_inf_nan=False,
        description="Until it probes that server, doubled up to 5 times this, half of it jitter.",
    )

    pool: Literal["ray", "local"] = Field(
        "ray", description="Where agents run: Ray actors, or this process (`local`)."
    )
    pool_actors: int = Field(2, ge=1, le=1024, description="Ray actors of one dispatcher.")
    pool_slots: int = Field(
        256, ge=1, le=16_384, description="Calls one actor runs at once. vLLM's own default is 256 sequences."
    )
    ray_actor_cpus: float = Field(
        1.0, ge=0, le=64, allow_inf_nan=False, description="CPUs Ray reserves for one actor."
    )

    max_agents: int = Field(
        messages.MAX_AGENTS, ge=1, le=messages.MAX_AGENTS, description="Most agents of one deliberation."
    )
    timeout_seconds: float = Field(
        300.0,
        ge=messages.MIN_TIMEOUT_SECONDS,
        le=messages.MAX_TIMEOUT_SECONDS,
        allow_inf_nan=False,
        description="Deadline of a request that names none, queueing included.",
    )
    keep_seconds: float = Field(
        3_600.0,
        ge=180,
        le=messages.MAX_TIMEOUT_SECONDS,
        allow_inf_nan=False,
        description="How long a tally outlives its ending.",
    )
    claim_check_bytes: int = Field(
        512 * 1024,
        ge=1024,
        le=64 * 1024 * 1024,
        description="Endings above this put their results into the object store.",
    )
    reply_prefixes: str = Field(
        "_INBOX.", description="Subjects allowed in Parley-Reply-To, by prefix, comma-separated."
    )
    replicas: int = Field(1, ge=1, le=5, description="Replicas of every stream. Production: 3.")
    ack_wait_seconds: Seconds = Field(
        ACK_WAIT_SECONDS, description="After this, unsettled work goes to somebody else."
    )
    drain_seconds: float = Field(
        20.0, ge=0, le=3_600, allow_inf_nan=False, description="For running calls to finish at a stop."
    )

    http_host: str = Field("127.0.0.1", description="Where /metrics, /livez, /readyz and /docs listen.")
    http_port: int = Field(9464, ge=0, le=65_535, description="Their port; 0 takes a free one.")
    home: Path = Field(
        default_factory=default_state_folder,
        description="Where `parley up` keeps its NATS data and says where it listens.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Of our own log lines."
    )

    @field_validator("nats_url", "ray_address", "vllm_url", "vllm_model", mode="before")
    @classmethod
    def _blank_is_unset(cls, value: Any) -> Any:
        return None if isinstance(value, str) and not value.strip() else value

    @field_validator("vllm_api_key", mode="before")
    @classmethod
    def _key_fits_a_header(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        key = value.strip()  # a key from a file often ends with a line feed
        if not (key.isascii() and key.isprintable()):
            raise ValueError("holds characters that no HTTP header can carry")
        return key or None

    @field_validator("home", mode="before")
    @classmethod
    def _blank_is_the_usual_place(cls, value: Any) -> Any:
        return default_state_folder() if isinstance(value, str) and not value.strip() else value

    @field_validator("nats_url")
    @classmethod
    def _nats_urls(cls, value: str | None) -> str | None:
        return _urls(value, {"nats", "tls", "ws", "wss"}, "nats://127.0.0.1:4222")

    @field_validator("vllm_url")
    @classmethod
    def _vllm_urls(cls, value: str | None) -> str | None:
        return _urls(value, {"http", "https"}, "http://127.0.0.1:8000")

    @field_validator("reply_prefixes")
    @classmethod
    def _prefixes(cls, value: str) -> str:
        for prefix in (part.strip() for part in value.split(",")):
            if not prefix.endswith(".") or prefix.startswith(("$", "deliberation.", "agent.", "deadletter.")):
                raise ValueError(
                    "each prefix ends with a dot and is none of Parley's or the server's own subjects"
                )
        return value

    @model_validator(mode="after")
    def _backoff_fits(self) -> Self:
        if self.retry_base_seconds > self.retry_cap_seconds:
            raise ValueError("PARLEY_RETRY_BASE_SECONDS is more than PARLEY_RETRY_CAP_SECONDS")
        return self

    def with_local_nats(self) -> Self:
        """These settings, with the NATS of this user's running `parley up` where none is set."""
        return (
            self if self.nats_url is not None else self.model_copy(update={"nats_url": announced(self.home)})
        )

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(part.strip() for part in (self.vllm_url or "").split(",") if part.strip())

    @property
    def allowed_reply_prefixes(self) -> tuple[str, ...]:
        return tuple(part.strip() for part in self.reply_prefixes.split(","))

    def worker_config(self, nats_url: str, model: str) -> WorkerConfig:
        return WorkerConfig(
            nats_url=nats_url,
            endpoints=self.endpoints,
            model=model,
            api_key=self.vllm_api_key.get_secret_value() if self.vllm_api_key else None,
            timeouts=CallTimeouts(
                connect=self.vllm_connect_timeout_seconds,
                first_byte=self.vllm_first_byte_timeout_seconds,
                total=self.vllm_total_timeout_seconds,
            ),
            retry=RetryPolicy(self.retry_attempts, self.retry_base_seconds, self.retry_cap_seconds),
            stream=self.vllm_stream,
            slots=self.pool_slots,
            ack_wait_seconds=self.ack_wait_seconds,
            drain_seconds=self.drain_seconds,
            breaker_policy=BreakerPolicy(self.breaker_failures, self.breaker_cooldown_seconds),
        )


def _urls(value: str | None, schemes: set[str], example: str) -> str | None:
    for part in value.split(",") if value else ():
        try:
            url = urlsplit(part.strip())
            usable = url.scheme in schemes and url.hostname and (url.port is None or url.port > 0)
        except ValueError:
            usable = False
        if not usable:
            raise ValueError(f"not a URL like {example}")
    return value


def load(**overrides: Any) -> Settings:
    """The settings from the environment; `overrides`, by field name, win.

    Raises SettingsError: one line a problem, naming the setting.
    """
    unknown = sorted(set(overrides) - set(Settings.model_fields))
    if unknown:
        raise TypeError(f"no such field: {', '.join(unknown)}")
    misspelt = _misspelt()
    if misspelt:
        raise SettingsError(misspelt)
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError([_problem(dict(detail)) for detail in error.errors(include_url=False)]) from None


def _misspelt() -> list[str]:
    """One problem for each unknown `PARLEY_…` name: ignored in silence, it would leave its author believing in it."""
    known = {name for field in Settings.model_fields for name in _names(field)}
    problems = []
    for name in sorted(os.environ):
        if not name.upper().startswith(PREFIX) or name in known or _is_service_link(name):
            continue
        # Compared without the prefix: it alone would make any two names look alike.
        bare = {n.removeprefix(PREFIX) for n in known if n.startswith(PREFIX)}
        close = difflib.get_close_matches(name.upper().removeprefix(PREFIX), sorted(bare), n=1)
        problems.append(f"{name}: no such setting" + (f"; did you mean {PREFIX}{close[0]}?" if close else ""))
    return problems


def _is_service_link(name: str) -> bool:
    return bool(_SERVICE_LINK.fullmatch(name) or _SERVICE_LINK_PORT.fullmatch(f"{name}={os.environ[name]}"))


def variable(field: str) -> str:
    """The variable that sets a field: the plain name where there is one."""
    alias = Settings.model_fields[field].validation_alias
    return str(alias.choices[-1]) if isinstance(alias, AliasChoices) else f"{PREFIX}{field.upper()}"


def _problem(detail: dict[str, Any]) -> str:
    message = str(detail["msg"]).removeprefix("Value error, ")
    if not detail["loc"]:
        return message
    name = str(detail["loc"][0])
    field = next((f for f in Settings.model_fields if name in (f, *_names(f))), name)
    shown = "" if "url" in field or "key" in field else f" (it is {str(detail['input'])[:80]!r})"
    # The variable that is set: who set PARLEY_NATS_URL must not search for NATS_URL.
    given = (
        next((n for n in _names(field) if n in os.environ), variable(field))
        if field in Settings.model_fields
        else name
    )
    return f"{given}: {message}{shown}"


def _names(field: str) -> tuple[str, ...]:
    alias = Settings.model_fields[field].validation_alias
    choices = (
        [str(choice) for choice in alias.choices]
        if isinstance(alias, AliasChoices)
        else [f"{PREFIX}{field.upper()}"]
    )
    return (*choices, *(choice.lower() for choice in choices))


def shown(settings: Settings) -> list[tuple[str, str, str]]:
    """(variable, value, meaning) of every setting, secrets masked."""
    rows = []
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            text = "***"
        elif value is None:
            text = ""
        else:
            text = masked(str(value)) if "url" in name else str(value)
        rows.append((variable(name), text, field.description or ""))
    return rows


def table() -> str:
    """The settings as a Markdown table, for README."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = (
            "~/.local/state/parley" if name == "home" else "" if field.default is None else str(field.default)
        )
        lines.append(f"| `{variable(name)}` | {f'`{default}`' if default else ''} | {field.description} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
