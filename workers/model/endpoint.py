"""Where a model is served: one address, which may hold a password that is for nobody to see."""

from base64 import b64encode
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from parley.broker.core.urls import masked


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a model is served. `url` without a path stands for its `/v1`; `user:password@` in it is for HTTP Basic."""

    url: str

    @property
    def base(self) -> str:
        parts = urlsplit(self.url)
        url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
        return url if url.endswith("/v1") else f"{url}/v1"

    @property
    def authorization(self) -> str | None:
        """What stands before `@`, as a header's value."""
        parts = urlsplit(self.url)
        if parts.username is None:
            return None
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return f"Basic {b64encode(pair.encode()).decode()}"

    @property
    def label(self) -> str:
        """`host:port`, for a metric: without user, password or path."""
        parts = urlsplit(self.url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"

    def __str__(self) -> str:
        """For messages: an outcome's `error` is read by others."""
        return masked(self.url)
