"""How the model servers are reached beside their URL and their key: headers, certificates, a proxy, fields. Pure."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import unquote, urlsplit

from parley.workers.model.request_fields import PLAIN, FieldRules
from parley.workers.model.secret_masking import is_no_word, secrets_of_header, secrets_of_key

AUTHORIZATION = "authorization"
# A header's name (RFC 9110), and what begins the next one in a list on one line.
TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_NEXT_NAME = {":": re.compile(r"[,;]\s*(?=[\w.-]+\s*:(?!//))"), "=": re.compile(r"[,;]\s*(?=[\w.-]+=)")}
# A header with such a name holds a secret. What others hold, a title or a version, may stand in any answer.
_SECRET_NAME = re.compile(r"auth|key|token|secret|cookie|pass|credential|session|signature", re.IGNORECASE)
# Parley's own: another value would break the call.
_OWN = frozenset(
    {"accept-encoding", "connection", "content-length", "content-type", "expect", "te", "traceparent"}
    | {"trailer", "transfer-encoding", "upgrade"}
)


@dataclass(frozen=True, slots=True)
class Names:
    """What an error calls the settings of a server, so that its reader knows what to change."""

    key: str = "VLLM_API_KEY"
    url: str = "VLLM_URL"
    headers: str = "PARLEY_VLLM_HEADERS"
    certificates: str = "PARLEY_VLLM_CA_FILE"
    proxy: str = "PARLEY_VLLM_PROXY"
    fields: str = "PARLEY_VLLM_OMIT and PARLEY_VLLM_RENAME"


VLLM_NAMES = Names()


@dataclass(frozen=True, slots=True)
class ServerAccess:
    """`key_header`: the header with the key; in `Authorization` it stands after `Bearer`. `headers`: of every call.

    `certificates`: PEM text of authorities that are trusted beside the public ones. `proxy`: its URL. Nothing of it is
    in its `repr`: it holds secrets. Plain values: it crosses to an actor.
    """

    key_header: str = "Authorization"
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    certificates: str | None = field(default=None, repr=False)
    proxy: str | None = field(default=None, repr=False)
    fields: FieldRules = PLAIN
    names: Names = VLLM_NAMES

    def sent_headers(self, api_key: str | None) -> dict[str, str]:
        """The headers of every call, by their name in small letters."""
        sent = {name.lower(): value for name, value in self.headers}
        if api_key:
            name = self.key_header.lower()
            sent[name] = f"Bearer {api_key}" if name == AUTHORIZATION else api_key
        return sent

    def secrets(self, api_key: str | None) -> tuple[str, ...]:
        """What nobody else may read."""
        found = [*secrets_of_key(api_key)] if api_key else []
        for _, value in self.headers:
            found += secrets_of_header(value)
        if self.proxy:
            parts = urlsplit(self.proxy)
            password = parts.password or parts.username or ""
            found += [password, unquote(password)]
        return tuple(dict.fromkeys(secret for secret in found if secret))

    def secrets_in_answers(self, api_key: str | None) -> tuple[str, ...]:
        """What not even an answer may show: fewer than `secrets`, for no answer loses an everyday word."""
        headers = tuple(pair for pair in self.headers if _SECRET_NAME.search(pair[0]))
        return tuple(filter(is_no_word, replace(self, headers=headers).secrets(api_key)))


def parse_headers(text: str) -> tuple[tuple[str, str], ...]:
    """Headers as a JSON object, or `Name: value` or `Name=value`, one a line or separated by `,` or `;`.

    Raises ValueError, which shows no value.
    """
    pairs = _from_json(text) if text.strip().startswith("{") else _from_lines(text)
    seen: set[str] = set()
    for name, value in pairs:
        if not TOKEN.fullmatch(name):
            raise ValueError("write a JSON object, or a line `Name: value` for each header")
        if name.lower() in _OWN:
            raise ValueError(f"{name} is set by Parley itself")
        if name.lower() in seen:
            raise ValueError(f"{name} is there twice")
        if not value or not (value.isascii() and value.isprintable()):
            raise ValueError(f"{name} has no value, or one with characters that no HTTP header can carry")
        seen.add(name.lower())
    return pairs


def _from_json(text: str) -> tuple[tuple[str, str], ...]:
    try:
        found = json.loads(text)
    except ValueError:
        raise ValueError("not a JSON object") from None
    if not isinstance(found, Mapping) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError("not a JSON object of strings")
    return tuple((name.strip(), value.strip()) for name, value in found.items())


def _from_lines(text: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for line in text.splitlines():
        sign = ":" if re.match(r"\s*[\w.-]+\s*:", line) else "="
        for part in _NEXT_NAME[sign].split(line):
            name, found, value = part.strip().partition(sign)
            if name or found:
                # Without the sign it may be a value alone, which no error must show.
                pairs.append((name.strip() if found else "", value.strip()))
    return tuple(pairs)
