"""The settings about NATS: where it is, and how this process and its workers prove themselves to it."""

from functools import cached_property
from typing import Self

from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from parley.broker.core.errors import SettingsError
from parley.broker.core.url_masking import split_servers
from parley.broker.jetstream.nats_access import (
    LOGIN_NAMES,
    OPTION_NAMES,
    NatsAccess,
)
from parley.broker.jetstream.nats_address import has_credentials, is_usable
from parley.find_nats import access_for, option_variable


def _file(meaning: str) -> str | None:
    found: str | None = Field(None, description=meaning)
    return found


class NatsSettings(BaseSettings):
    """`parley.find_nats` reads the same for clients."""

    model_config = SettingsConfigDict(
        env_prefix="PARLEY_", extra="ignore", frozen=True, populate_by_name=True
    )

    # fmt: off
    nats_url: str | None = Field(
        None, validation_alias=AliasChoices("PARLEY_NATS_URL", "NATS_URL"),
        description="NATS servers, comma-separated. `parley up` starts its own without it.")
    worker_nats_url: str | None = _file(
        "The same servers, with the credentials that workers use. Without it, those of NATS_URL.")
    nats_user: str | None = _file("User at NATS. Or in the URL, where a `%` in a password is written `%25`.")
    nats_password: SecretStr | None = Field(None, description="Its password.")
    nats_password_file: str | None = _file("File that has the password.")
    nats_token: SecretStr | None = Field(None, description="Token, for a NATS with one.")
    nats_token_file: str | None = _file("File that has the token.")
    nats_creds_file: str | None = _file("`.creds` file: a JWT and its seed. A renewed one counts at the next connection.")
    nats_nkey_file: str | None = _file("File that has the seed of an nkey (`SU…`).")
    worker_nats_creds_file: str | None = _file("`.creds` file of the workers. Without it, the service's.")
    worker_nats_nkey_file: str | None = _file("Seed of the workers' nkey. Without it, the service's.")
    nats_ca_file: str | None = _file("PEM file of authorities trusted beside the public ones. Demands TLS.")
    nats_cert_file: str | None = _file("This process's certificate for NATS, PEM. Demands TLS.")
    nats_key_file: str | None = _file("Its key, PEM, without a passphrase.")
    worker_nats_cert_file: str | None = _file("The workers' certificate. Without it, the service's.")
    worker_nats_key_file: str | None = _file("The key of that certificate.")
    nats_tls_first: bool = Field(
        False, description="TLS before NATS's greeting: for a server with `handshake_first`.")
    nats_inbox_prefix: str | None = _file(
        "Prefix of a client's inboxes, for `_INBOX`. PARLEY_REPLY_PREFIXES of the service must allow it.")
    nats_jetstream_domain: str | None = _file(
        "Domain of the JetStream that has the streams, where it is not the server's own: at a leaf node.")
    # fmt: on

    @field_validator(
        "nats_url",
        "worker_nats_url",
        *(f"nats_{name}" for name in OPTION_NAMES if name != "tls_first"),
        mode="before",
    )
    @classmethod
    def _blank_nats_setting_is_unset(cls, value: object) -> object:
        return None if isinstance(value, str) and not value.strip() else value

    @field_validator("nats_url", "worker_nats_url")
    @classmethod
    def _nats_urls(cls, value: str | None) -> str | None:
        if value is not None and not all(map(is_usable, split_servers(value))):
            raise ValueError("not a URL like nats://127.0.0.1:4222")
        return value

    @model_validator(mode="after")
    def _nats_access_fits(self) -> Self:
        try:
            _ = self.nats_access, self.worker_nats_access
        except SettingsError as error:
            raise ValueError(str(error)) from None
        return self

    def at_local_nats(self, url: str) -> Self:
        """These settings with the NATS at `url`, which this machine started: it has a token, and neither TLS nor users."""
        unset = {f"nats_{name}": None for name in OPTION_NAMES if name not in ("inbox_prefix", "tls_first")}
        worker = {name: None for name in type(self).model_fields if name.startswith("worker_nats_")}
        changed = self.model_copy(update={"nats_url": url, **unset, **worker, "nats_tls_first": False})
        for cached in ("nats_access", "worker_nats_access"):
            changed.__dict__.pop(cached, None)
        return changed

    @cached_property
    def nats_access(self) -> NatsAccess:
        """How the service proves itself. Raises SettingsError."""
        return access_for(self.nats_url, self._options(), option_variable, url_name="NATS_URL")

    @cached_property
    def worker_nats_access(self) -> NatsAccess:
        """How workers do: as the service, but for what they have of their own. Raises SettingsError."""
        names = ("creds_file", "nkey_file", "cert_file", "key_file")
        own = {name: value for name in names if (value := getattr(self, f"worker_nats_{name}")) is not None}
        if not own and not self.worker_nats_url:
            return self.nats_access
        options = self._options()
        if own.keys() & set(LOGIN_NAMES) or (self.worker_nats_url and has_credentials(self.worker_nats_url)):
            options = {name: value for name, value in options.items() if name not in LOGIN_NAMES}
        merged = {**options, **own}

        def label(name: str) -> str:
            return f"PARLEY_WORKER_NATS_{name.upper()}" if name in own else option_variable(name)

        url = self.worker_nats_url or (None if own.keys() & set(LOGIN_NAMES) else self.nats_url)
        return access_for(url, merged, label, url_name="PARLEY_WORKER_NATS_URL")

    def _options(self) -> dict[str, object]:
        return {name: _plain(getattr(self, f"nats_{name}")) for name in OPTION_NAMES}


def _plain(value: object) -> object:
    return value.get_secret_value() if isinstance(value, SecretStr) else value
