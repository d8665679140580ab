"""The settings about model servers that need a check of their own, as types: a wrong value is refused when it is loaded."""

import os
import ssl
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr

from parley.role_files import read_roles
from parley.workers.model.request_fields import parse_omit, parse_rename
from parley.workers.model.server_access import AUTHORIZATION, TOKEN, VLLM_NAMES, Names, parse_headers

# The variable that OpenSSL, curl and Python's clients share.
COMMON_CA_FILE = "SSL_CERT_FILE"


def _unset_if_blank(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


def proxy_url(value: str | None) -> str | None:
    """Raises ValueError, which does not show it."""
    if value is None:
        return None
    try:
        url = urlsplit(value.strip())
        usable = url.scheme in ("http", "https") and url.hostname and url.port != 0 and "," not in value
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("not one URL like http://127.0.0.1:3128 (SOCKS is not supported)")
    return value.strip()


def _headers(value: SecretStr | None) -> SecretStr | None:
    parse_headers(value.get_secret_value() if value else "")
    return value


def key_header(value: str) -> str:
    """The name of the header with the key. Raises ValueError."""
    name = value.strip()
    if not TOKEN.fullmatch(name):
        raise ValueError("not the name of a header")
    parse_headers(f"{name}: x")
    return name


def clean_key(value: str) -> str | None:
    """A key as it is sent. Raises ValueError, which does not show it."""
    key = value.strip()  # a key from a file often ends with a line feed
    if key.lower().startswith("bearer "):  # the header's whole value was copied
        key = key[len("bearer ") :].strip()
    if not (key.isascii() and key.isprintable()):
        raise ValueError("holds characters that no HTTP header can carry")
    return key or None


def server_urls(value: str | None) -> str | None:
    """The URLs of servers, comma-separated. Raises ValueError, which does not show them."""
    for part in value.split(",") if value else ():
        try:
            part.encode()  # bytes that are not UTF-8 are surrogates here
            url = urlsplit(part.strip())
            # Two of them, with a blank or a semicolon between, are no URL: lists have commas.
            alone = len(part.split()) == 1 and not {"\\", ";"} & set(url.netloc + url.path)
            named = url.scheme in ("http", "https") and bool(url.hostname)
            usable = alone and named and (url.port is None or url.port > 0)
        except ValueError:
            usable = False
        if not usable:
            raise ValueError("not a URL like http://127.0.0.1:8000")
    return value


def _readable_by(read: Callable[[Any], object]) -> AfterValidator:
    """The value as it is, if `read` raises nothing."""

    def check(value: Any) -> Any:
        read(value)
        return value

    return AfterValidator(check)


def read_certificates(path: Path | None) -> str | None:
    """Raises ValueError for a file that cannot be read or holds no certificate."""
    if path is None:
        return None
    try:
        text = path.read_text()
        ssl.create_default_context(cadata=text)
    except (ssl.SSLError, ValueError):
        raise ValueError(f"{path} holds no certificate in PEM") from None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    return text


Blankable = BeforeValidator(_unset_if_blank)
ProxyUrl = Annotated[str | None, AfterValidator(proxy_url), Blankable]
Headers = Annotated[SecretStr | None, AfterValidator(_headers), Blankable]
KeyHeader = Annotated[str, AfterValidator(key_header)]
CaFile = Annotated[Path | None, _readable_by(read_certificates), Blankable]
EndpointsFile = Annotated[Path | None, Blankable]
RolesFolder = Annotated[Path | None, _readable_by(read_roles), Blankable]
OmittedFields = Annotated[str, _readable_by(parse_omit)]
RenamedFields = Annotated[str, _readable_by(parse_rename)]


def certificates(ca_file: Path | None) -> str | None:
    """PEM text of `ca_file`, else of the file that SSL_CERT_FILE names; None without both.

    Text, and not a file's name: an actor may run on a machine without the file. Raises ValueError.
    """
    if ca_file is not None:
        return read_certificates(ca_file)
    common = os.environ.get(COMMON_CA_FILE, "").strip()
    try:
        return read_certificates(Path(common)) if common else None
    except ValueError as error:
        raise ValueError(f"{COMMON_CA_FILE}: {error}") from None


def has_user(url: str) -> bool:
    return "@" in urlsplit(url).netloc


def check_headers(
    key_header: str | None,
    urls: Iterable[str],
    headers: Iterable[tuple[str, str]],
    names: Names = VLLM_NAMES,
) -> None:
    """Raises ValueError if two settings fill the same header: one would win, in silence.

    `key_header`: None without a key.
    """
    given: Mapping[str, list[str]] = {
        f"{names.key} is set": [key_header.lower()] if key_header else [],
        f"{names.url} names a user": [AUTHORIZATION] if any(map(has_user, urls)) else [],
        f"{names.headers} has it": [name.lower() for name, _ in headers],
    }
    taken: dict[str, str] = {}
    for source, filled in given.items():
        for name in filled:
            if name in taken:
                raise ValueError(f"{taken[name]}, and {source}: servers take one `{name}`; leave one out")
            taken[name] = source
