"""Where a model is served: an address, with a secret password perhaps."""

from base64 import b64encode
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from parley.broker.core.url_masking import masked


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`url`: `/v1` is added if it is missing; `user:password@` in it is sent as HTTP Basic authorization."""

    url: str

    @property
    def base(self) -> str:
        """The URL for calls: with `/v1`, without user and password."""
        parts = urlsplit(self.url)
        url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
        return url if url.endswith("/v1") else f"{url}/v1"

    @property
    def authorization(self) -> str | None:
        """The value of the `Authorization` header, from `user:password@`; None without."""
        parts = urlsplit(self.url)
        if parts.username is None:
            return None
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return f"Basic {b64encode(pair.encode()).decode()}"

    @property
    def label(self) -> str:
        """`host:port` for metrics, without user, password or path."""
        parts = urlsplit(self.url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"

    def __str__(self) -> str:
        """The URL for messages, its password masked: others read an outcome's `error`."""
        return masked(self.url)
