"""Where a model is served: an address, with a secret password perhaps.

http://host:8000                            http://host:8000/v1, the usual place: a bare host names no path
https://host/v1beta/openai/                 as it is, but for slashes at its end
https://host/v1/chat/completions            the address of a call, as it was copied: what is before it
https://host/openai/v1?api-version=preview  the query goes with every call
"""

from base64 import b64encode
from dataclasses import dataclass
from urllib.parse import unquote, unquote_plus, urlsplit

from parley.broker.core.url_masking import masked

# The ends of addresses that people copy from a server's documents. The longer one first.
_CALLS = ("/chat/completions", "/completions", "/models", "/responses", "/embeddings")


@dataclass(frozen=True, slots=True, repr=False)
class Endpoint:
    """`url`: a bare host, or the base of the calls; `user:password@` in it is sent as HTTP Basic authorization."""

    url: str

    @property
    def base(self) -> str:
        """The URL that calls add their path to, without user, password, query and slash at its end."""
        parts = urlsplit(self.url.strip())
        path = parts.path.rstrip("/")
        call = next((call for call in _CALLS if path.lower().endswith(call)), "")
        # A whole call's address says where the calls are, also if that is the root of the host.
        path = path[: -len(call)].rstrip("/") if call else path or "/v1"
        return urlsplit(self.without_user)._replace(path=path, query="", fragment="").geturl()

    @property
    def without_user(self) -> str:
        """The URL as given, without user and password."""
        parts = urlsplit(self.url.strip())
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    def call_url(self, path: str) -> str:
        """The URL of a call, such as `/chat/completions`, with the endpoint's query."""
        query = urlsplit(self.url.strip()).query
        return f"{self.base}{path}?{query}" if query else f"{self.base}{path}"

    @property
    def authorization(self) -> str | None:
        """The value of the `Authorization` header, from `user:password@`; None without."""
        parts = urlsplit(self.url)
        if parts.username is None:
            return None
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return f"Basic {b64encode(pair.encode()).decode()}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What nobody else may read: user and password, and the values in the query, each as given and decoded."""
        parts = urlsplit(self.url)
        user, password = parts.username or "", parts.password or ""
        # A user alone is a token; beside a password it is a name.
        found = [password or user, unquote(password or user)]
        if user:
            pair = f"{unquote(user)}:{unquote(password)}"
            found += [pair, b64encode(pair.encode()).decode()]
        for name, _, value in (pair.partition("=") for pair in parts.query.split("&")):
            if name.lower() != "api-version":
                found += [unquote_plus(value), value]
        return tuple(dict.fromkeys(value for value in found if value))

    @property
    def identity(self) -> str:
        """The same for all ways to write this address."""
        parts = urlsplit(self.base)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return f"{parts.scheme}://{(parts.hostname or '').rstrip('.')}:{port}{parts.path}"

    @property
    def label(self) -> str:
        """`host:port` for metrics, without user, password or path."""
        parts = urlsplit(self.url.strip())
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"

    def __repr__(self) -> str:
        return f"Endpoint({str(self)!r})"

    def __str__(self) -> str:
        """The URL for messages, its password and query masked: others read an outcome's `error`."""
        return masked(self.url)
