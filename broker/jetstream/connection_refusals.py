"""Why NATS does not take a connection, in words that name the remedy. Pure.

Each answer is final: to try again would bring the same. What may pass (no server there yet) gets none.
"""

import re
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import nats.errors

from parley.broker.core.timestamps import format_timestamp
from parley.broker.jetstream.nats_access import NatsAccess

# OpenSSL's number for a certificate that is for another host, or another address; and for one past its end.
_OTHER_NAME = frozenset({62, 64})
_PAST_ITS_END = 10
_ALERT = re.compile(r"alert|bad.certificate|unknown.ca|certificate.required", re.IGNORECASE)
_WAYS = (
    "a user and password or a token in the URL (nats://user:password@host:port), PARLEY_NATS_USER and _PASSWORD, "
    "_TOKEN, _CREDS_FILE or _NKEY_FILE"
)
NO_WEBSOCKET = "it takes no WebSocket connection on this port; nats:// or tls:// is for the other one"
TLS_NOT_FIRST = "it does not begin with TLS; unset PARLEY_NATS_TLS_FIRST"
_OWN_CERTIFICATE = "PARLEY_NATS_CERT_FILE and PARLEY_NATS_KEY_FILE"


class NotAcceptable(nats.errors.Error):
    """What the server says of itself does not fit what is asked of it. Raised while a connection is opened."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to connect to a server. `greeting`: its INFO; None before it came. `user`, `password`, `token`: which of
    them it is given."""

    host: str
    access: NatsAccess
    greeting: Mapping[str, Any] | None = None
    user: str | None = None
    has_password: bool = False
    is_websocket: bool = False
    # It had the TCP connection.
    connected: bool = True


def refusal(error: BaseException, attempt: Attempt) -> str | None:
    """What an operator should read, or None for what may pass by itself."""
    if isinstance(error, NotAcceptable):
        return str(error)
    tls = _tls_error(error)
    if tls is not None:
        return _of_tls(tls, attempt)
    said = str(error).lower()
    if "authorization violation" in said or "authentication" in said:
        return _of_login(said, attempt)
    if "secure connection" in said:
        return f"it wants TLS; write tls://{attempt.host}, or set PARLEY_NATS_CA_FILE if its authority is your own"
    if attempt.greeting is None and attempt.connected:
        return _of_greeting(error, attempt)
    if _hung_up(error) and _wants_certificate(attempt):
        return _of_certificate(attempt)
    return None


def unfit_greeting(attempt: Attempt, *, tls_wanted: bool) -> str | None:
    """What in the server's greeting rules the connection out, before anything secret is sent."""
    greeting = attempt.greeting or {}
    offers = greeting.get("tls_required") or greeting.get("tls_available")
    if tls_wanted and not offers and not attempt.access.tls_first:
        return (
            "it speaks no TLS, and nothing is sent to it without; "
            "write nats:// for tls:// and unset PARLEY_NATS_CA_FILE and _CERT_FILE, or enable TLS in the server"
        )
    if _wants_certificate(attempt):
        return _of_certificate(attempt)
    if attempt.access.seed is not None and greeting.get("auth_required") and not greeting.get("nonce"):
        return f"it takes no credentials file and no nkey; it wants {_WAYS.split(', PARLEY', maxsplit=1)[0]}"
    return None


def _wants_certificate(attempt: Attempt) -> bool:
    greeting = attempt.greeting or {}
    return bool(greeting.get("tls_verify")) and attempt.access.certificate is None


def _of_certificate(attempt: Attempt) -> str:
    if attempt.access.certificate is None:
        return f"it wants a client certificate; set {_OWN_CERTIFICATE}"
    return f"it does not accept this client certificate ({_OWN_CERTIFICATE})"


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    for each in _chain(error):
        found = getattr(each, "certificate_error", each)  # as aiohttp wraps it
        if isinstance(found, ssl.SSLError) and hasattr(found, "reason"):  # not aiohttp's own
            return found
    return None


def _of_tls(error: ssl.SSLError, attempt: Attempt) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _OTHER_NAME:
            return f"its certificate is for another name than {attempt.host}; use a name that is in it"
        if error.verify_code == _PAST_ITS_END:
            return "its certificate has expired"
        remedy = "set PARLEY_NATS_CA_FILE to the PEM file of its authority"
        if attempt.access.authorities is not None:
            remedy = "PARLEY_NATS_CA_FILE has another authority than its own"
        return f"its certificate is from an authority that is not trusted here ({error.verify_message}); {remedy}"
    words = f"{error.reason or ''} {error}"
    if "WRONG_VERSION_NUMBER" in words or "RECORD_LAYER_FAILURE" in words:
        if attempt.access.tls_first:
            return TLS_NOT_FIRST
        return "it speaks no TLS, or is no NATS server"
    if _ALERT.search(words):
        if attempt.access.certificate is None:
            return f"it ended the TLS handshake; if it wants a client certificate, set {_OWN_CERTIFICATE}"
        return _of_certificate(attempt)
    return f"TLS with it failed: {error.reason or 'the connection broke'}"


def _of_login(said: str, attempt: Attempt) -> str:
    access = attempt.access
    source = access.login_file or "the credentials file"
    if access.jwt is not None:
        end = access.expiry()
        if end is not None and end <= time.time():
            return f"the JWT in {source} expired at {format_timestamp(end)}; get a new one"
        if "expired" in said:
            return f"the account of the JWT in {source} has expired"
        if "revoked" in said:
            return f"the JWT in {source} was revoked"
        return f"it does not accept the JWT in {source}: its user or account is unknown here, or was revoked"
    if access.seed is not None:
        return f"it has no user with the nkey of {source}, {access.public_key}"
    if attempt.user is None:
        return f"it wants credentials, and none were given: {_WAYS}"
    if not attempt.has_password:
        return "it does not accept this token; or it wants a user and a password (nats://user:password@host:port)"
    return "it does not accept this user and password; in a URL a % in a password is written %25"


def _of_greeting(error: BaseException, attempt: Attempt) -> str | None:
    """The server has the connection and has not said INFO."""
    first = " If it wants TLS first, set PARLEY_NATS_TLS_FIRST=true."
    if attempt.access.tls_first:
        first = ""
    if isinstance(error, TimeoutError):
        return (
            f"it is silent: a NATS server greets at once, others (HTTP, NATS's own monitoring port) wait.{first}"
        ).rstrip(".")
    if _hung_up(error) or "expecting info" in str(error).lower():
        return f"what answers there does not greet as NATS does; is the port right?{first}".rstrip(".")
    return None


def _hung_up(error: BaseException) -> bool:
    return isinstance(error, ConnectionError) or "empty response" in str(error).lower()


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
