"""Whose token it is, whose deliberation, and how much each may ask. Pure, but for the file of tenants.

A tenant's deliberations begin with its name (`acme-…`), so any gateway knows whose one is. The file has tokens as
hashes: who reads it cannot use them.

    [tenants.acme]
    tokens = ["sha256:9f86d0…"]
    requests_per_second = 20
    in_flight = 200
    tokens_per_day = 5_000_000
"""

import hashlib
import hmac
import logging
import re
import secrets
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from parley.broker.core.headers_and_ids import OWN_NAME
from parley.broker.core.messages import TASK_ID_PATTERN

log = logging.getLogger("parley")

# Between two looks whether the file has changed.
LOOK_SECONDS = 1.0
# What a tenant may be called. Its deliberations' names have the rest of 64 characters.
NAME = re.compile(r"[a-z0-9]{2,24}")
HASH = re.compile(r"sha256:[0-9a-f]{64}")
# Characters of the part after a tenant's name.
_KEY_CHARACTERS = 26
MAX_KEY_CHARACTERS = 255
MAX_FILE_BYTES = 1024 * 1024
_TASK_ID = re.compile(TASK_ID_PATTERN)
_DAY_SECONDS = 86_400.0


class _Entry(BaseModel, extra="forbid", strict=True):
    tokens: list[str] = Field(min_length=1, max_length=100)
    requests_per_second: float = Field(20.0, gt=0, le=100_000)
    in_flight: int = Field(1_000, ge=1, le=1_000_000)
    tokens_per_day: int | None = Field(None, ge=1)


class _File(BaseModel, extra="forbid", strict=True):
    tenants: dict[str, _Entry]


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who asks. `name` empty: anybody, where no token is asked for; all deliberations are theirs.

    Of one gateway: `requests_per_second`, with as many at once; `in_flight`, deliberations that have not ended;
    `tokens_per_day`, of what was asked here and has ended.
    """

    name: str = ""
    requests_per_second: float = 100_000.0
    in_flight: int = 1_000_000
    tokens_per_day: int | None = None

    def owns(self, task_id: str) -> bool:
        return not self.name or task_id.startswith(f"{self.name}-")

    def task_id(self, key: str | None) -> str | None:
        """What a deliberation is called that is asked for under this idempotency key: the same for the same key, in any
        gateway. None: the service gives the name."""
        if key is None:
            return f"{self.name}-{secrets.token_hex(_KEY_CHARACTERS // 2)}" if self.name else None
        own = not OWN_NAME.fullmatch(key) and _TASK_ID.fullmatch(key)
        if not self.name and own:
            return key  # who comes over NATS knows it under this name
        hashed = hashlib.sha256(key.encode()).hexdigest()[:_KEY_CHARACTERS]
        return f"{self.name or 'key'}-{hashed}"


ANYBODY = Tenant()


class Tenants:
    """By the hash of a token, whose it is."""

    def __init__(self, by_hash: Mapping[str, Tenant]) -> None:
        self._by_hash = dict(by_hash)

    def of_token(self, token: str) -> Tenant | None:
        sought = hash_of(token)
        # Each is compared, in the same time: how long it takes tells nothing of a hash.
        return next(
            (tenant for known, tenant in self._by_hash.items() if hmac.compare_digest(known, sought)), None
        )


def hash_of(token: str) -> str:
    """What the file has of a token."""
    return f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"


def read_tenants(path: Path) -> Tenants:
    """Raises ValueError that names the place and the mistake; never a token or its hash."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    if len(text) > MAX_FILE_BYTES:
        raise ValueError(f"{path}: is over {MAX_FILE_BYTES} bytes")
    try:
        found = _File.model_validate(tomllib.loads(text.decode()))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise ValueError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is no TOML: {error}") from None
    by_hash: dict[str, Tenant] = {}
    for name, entry in found.tenants.items():
        if not NAME.fullmatch(name) or OWN_NAME.fullmatch(f"{name}-1"):
            raise ValueError(f"{path}: tenants.{name}: a name is 2 to 24 of a-z 0-9")
        tenant = Tenant(name, entry.requests_per_second, entry.in_flight, entry.tokens_per_day)
        for place, hashed in enumerate(entry.tokens):
            where = f"{path}: tenants.{name}.tokens[{place}]"
            if not HASH.fullmatch(hashed):
                raise ValueError(
                    f"{where}: must be `sha256:` and 64 of 0-9 a-f (`parley gateway-token` makes one)"
                )
            if hashed in by_hash:
                raise ValueError(f"{where}: is {by_hash[hashed].name}'s too")
            by_hash[hashed] = tenant
    return Tenants(by_hash)


class TenantsFile:
    """The tenants of a file, which is read again when it has changed. A bad new one leaves the old in force, and is
    logged."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = _stamp(path)
        self._tenants = read_tenants(path)
        self._looked_at = time.monotonic()

    def of_token(self, token: str) -> Tenant | None:
        if time.monotonic() - self._looked_at >= LOOK_SECONDS:
            self._look()
        return self._tenants.of_token(token)

    def _look(self) -> None:
        self._looked_at = time.monotonic()
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._tenants = read_tenants(self._path)
            log.info("the tenants of %s are in force", self._path)
        except ValueError as error:
            log.warning("%s; the tenants of before stay in force", error)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def new_token() -> str:
    """A token that nobody guesses: 256 bits."""
    return f"parley_{secrets.token_urlsafe(32)}"


class TenantUsage:
    """What one tenant has used of its bounds here. `now`: seconds, of a clock that never goes back."""

    def __init__(self, tenant: Tenant, now: float) -> None:
        self._requests = max(1.0, tenant.requests_per_second)
        self._asked_at = now
        self._in_flight: set[str] = set()
        # Tokens used in the day that began then.
        self._tokens, self._day = 0, now

    def wait_for_request(self, tenant: Tenant, now: float) -> float:
        """Count one request. Seconds until it may come, 0 if now."""
        most = max(1.0, tenant.requests_per_second)
        self._requests = min(most, self._requests + (now - self._asked_at) * tenant.requests_per_second)
        self._asked_at = now
        if self._requests < 1.0:
            return (1.0 - self._requests) / tenant.requests_per_second
        self._requests -= 1.0
        return 0.0

    def wait_for_tokens(self, tenant: Tenant, now: float) -> float:
        """Seconds until tokens are left, 0 if there are."""
        if now - self._day >= _DAY_SECONDS:
            self._tokens, self._day = 0, now
        if tenant.tokens_per_day is None or self._tokens < tenant.tokens_per_day:
            return 0.0
        return self._day + _DAY_SECONDS - now

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    def begin(self, task_id: str) -> bool:
        """Count a deliberation that is asked for. False if it is counted already."""
        if task_id in self._in_flight:
            return False
        self._in_flight.add(task_id)
        return True

    def end(self, task_id: str, tokens: int) -> None:
        if task_id in self._in_flight:
            self._in_flight.discard(task_id)
            self._tokens += tokens
