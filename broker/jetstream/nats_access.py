"""How this program proves itself to NATS, and NATS to it: credentials, certificates, inbox prefix, JetStream domain.

Files are read once, when the program starts, and their contents travel to workers on other machines. A file of
credentials is read again for each new connection where it is there, so that a renewed one counts.
"""

import base64
import contextlib
import json
import logging
import math
import os
import re
import ssl
import stat
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from parley.broker.core.errors import SettingsError
from parley.broker.core.reply_subjects import is_allowed_prefix

log = logging.getLogger("parley.nats")

# A credentials file: a JWT between two lines of dashes, and a seed between two more.
_JWT = re.compile(r"-{3,}BEGIN NATS USER JWT-{3,}\s*([A-Za-z0-9_.=-]+?)\s*-{3,}END NATS USER JWT-{3,}")
_SEED = re.compile(r"\bSU[A-Z2-7]{56}\b")
_DOMAIN = re.compile(r"[^\s.*>]{1,64}")
# A seed, a key or a password that others on this machine may read.
_FOR_OTHERS = stat.S_IROTH
MAX_FILE_BYTES = 1024 * 1024


class NatsOptions(TypedDict, total=False):
    """What `parley.connect` takes beside the URL; each is also a setting, `PARLEY_NATS_…`.

    user, password: for a server with users. token: for one with a token. creds_file: a `.creds` file (a JWT and its
    seed). nkey_file: a file with the seed of a user's nkey. ca_file: PEM file of authorities trusted beside the public
    ones. cert_file, key_file: this program's certificate and its key, PEM. tls_first: TLS before the server's greeting,
    for a server with `handshake_first`. inbox_prefix: of the subjects where answers come, `_INBOX` without it.
    jetstream_domain: the domain of the JetStream that has Parley's streams, where it is not the server's own.
    """

    user: str | None
    password: str | None
    password_file: str | os.PathLike[str] | None
    token: str | None
    token_file: str | os.PathLike[str] | None
    creds_file: str | os.PathLike[str] | None
    nkey_file: str | os.PathLike[str] | None
    ca_file: str | os.PathLike[str] | None
    cert_file: str | os.PathLike[str] | None
    key_file: str | os.PathLike[str] | None
    tls_first: bool
    inbox_prefix: str | None
    jetstream_domain: str | None


OPTION_NAMES = tuple(NatsOptions.__annotations__)
# Those that say who the program is: credentials in a URL stand for all of them.
LOGIN_NAMES = ("user", "password", "password_file", "token", "token_file", "creds_file", "nkey_file")


@dataclass(frozen=True, slots=True)
class NatsAccess:
    """Contents, not paths: a value that crosses to other machines. `…_file`: where it came from, for errors."""

    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    jwt: str | None = field(default=None, repr=False)
    # Of the nkey, or of the JWT's user.
    seed: str | None = field(default=None, repr=False)
    login_file: str | None = None
    authorities: str | None = field(default=None, repr=False)
    certificate: str | None = field(default=None, repr=False)
    key: str | None = field(default=None, repr=False)
    tls_first: bool = False
    # None: that of the connection's role.
    inbox_prefix: str | None = None
    domain: str | None = None

    @property
    def has_login(self) -> bool:
        return any(given is not None for given in (self.user, self.password, self.token, self.seed))

    @property
    def wants_tls(self) -> bool:
        """Whether a connection without TLS is refused."""
        return self.tls_first or self.authorities is not None or self.certificate is not None

    @property
    def public_key(self) -> str | None:
        """Of the nkey."""
        return None if self.seed is None else _public_key(self.seed)

    @property
    def api_prefix(self) -> str:
        """What JetStream's API begins with."""
        return f"$JS.{self.domain}.API." if self.domain else "$JS.API."

    def options(self) -> dict[str, Any]:
        """For nats-py's `connect`. Raises SettingsError."""
        found: dict[str, Any] = {}
        if self.wants_tls:
            found["tls"] = tls_context(self.authorities, self.certificate, self.key)
            found["tls_handshake_first"] = self.tls_first
        if self.jwt is not None:
            found["user_jwt_cb"] = lambda: bytearray(self._current()[0].encode())
            found["signature_cb"] = lambda nonce: _signed(self._current()[1], nonce)
        elif self.seed is not None:
            found["nkeys_seed_str"] = self.seed
        elif self.token is not None:
            found["token"] = self.token
        elif self.user is not None:
            found["user"], found["password"] = self.user, self.password or ""
        return found

    def expiry(self) -> float | None:
        """When the JWT ends, in seconds since the epoch. None: never, or there is none."""
        return jwt_expiry(self._current()[0]) if self.jwt is not None else None

    def has_current_jwt(self) -> bool:
        """Whether there is a JWT that has not ended."""
        return self.jwt is not None and (self.expiry() or math.inf) > time.time()

    def _current(self) -> tuple[str, str]:
        """JWT and seed: those of the file as it is now, or as it was."""
        with contextlib.suppress(OSError, ValueError):
            return read_credentials(Path(self.login_file or "").read_text())
        return self.jwt or "", self.seed or ""


PLAIN = NatsAccess()


def load_access(options: Mapping[str, object], label: Callable[[str], str] = str) -> NatsAccess:
    """Read the files that `options` name. `label`: what the user calls an option, for errors.

    Raises SettingsError: a line a problem.
    """
    reader = _Reader(options, label)
    access = reader.read()
    if reader.problems:
        raise SettingsError(reader.problems)
    return access


class _Reader:
    """Reads options and collects what is wrong with them."""

    def __init__(self, options: Mapping[str, object], label: Callable[[str], str]) -> None:
        # Any: paths, texts and one switch.
        self._given: dict[str, Any] = {
            name: value for name, value in options.items() if value is not None and str(value).strip()
        }
        self._label = label
        self.problems: list[str] = []

    def read(self) -> NatsAccess:
        self._check_one_login()
        jwt, seed = self._login()
        authorities = self._text("ca_file")
        certificate, key = self._text("cert_file"), self._text("key_file", secret=True)
        if not self.problems:
            self._check_tls(authorities, certificate, key)
        return NatsAccess(
            user=self._given.get("user"),
            password=self._secret("password"),
            token=self._secret("token"),
            jwt=jwt,
            seed=seed,
            login_file=str(self._given.get("creds_file") or self._given.get("nkey_file") or "") or None,
            authorities=authorities,
            certificate=certificate,
            key=key,
            tls_first=bool(self._given.get("tls_first", False)),
            inbox_prefix=self._inbox_prefix(),
            domain=self._domain(),
        )

    def _check_one_login(self) -> None:
        ways = (
            ("creds_file",),
            ("nkey_file",),
            ("token", "token_file"),
            ("user", "password", "password_file"),
        )
        chosen = [way for way in ways if any(name in self._given for name in way)]
        if len(chosen) > 1:
            names = " and ".join(self._label(next(n for n in way if n in self._given)) for way in chosen)
            self.problems.append(f"{names}: only one of them can be used")
        for name in ("password", "token"):
            if name in self._given and f"{name}_file" in self._given:
                both = f"{self._label(name)} and {self._label(f'{name}_file')}"
                self.problems.append(f"{both}: only one of them can be used")
        if "user" in self._given and not {"password", "password_file"} & self._given.keys():
            self.problems.append(f"{self._label('user')}: {self._label('password')} is missing")

    def _login(self) -> tuple[str | None, str | None]:
        credentials, nkey = self._text("creds_file", secret=True), self._text("nkey_file", secret=True)
        try:
            if credentials is not None:
                return read_credentials(credentials)
        except ValueError as error:
            self._problem("creds_file", str(error))
        try:
            if nkey is not None:
                if _JWT.search(nkey):
                    self._problem("nkey_file", f"is a credentials file: use {self._label('creds_file')}")
                return None, read_seed(nkey)
        except ValueError as error:
            self._problem("nkey_file", str(error))
        return None, None

    def _secret(self, name: str) -> str | None:
        given = self._given.get(name)
        if given is not None:
            return str(given)
        text = self._text(f"{name}_file", secret=True)
        return None if text is None else text.strip("\r\n")

    def _text(self, name: str, *, secret: bool = False) -> str | None:
        """What the file holds. A secret that others may read is worth a warning."""
        path = self._given.get(name)
        if path is None:
            return None
        try:
            found = Path(path).expanduser()
            mode = found.stat().st_mode
            with found.open("rb") as file:
                text = file.read(MAX_FILE_BYTES).decode()
        except OSError as error:
            self._problem(name, f"cannot be read: {(error.strerror or 'no such file').lower()}")
            return None
        except ValueError:
            self._problem(name, "is no text")
            return None
        if not text.strip():
            self._problem(name, "is empty")
            return None
        if secret and mode & _FOR_OTHERS:
            log.warning("%s: everybody on this machine can read %s; chmod 600 it", self._label(name), found)
        return text

    def _check_tls(self, authorities: str | None, certificate: str | None, key: str | None) -> None:
        if (certificate is None) != (key is None):
            have, lack = ("cert_file", "key_file") if key is None else ("key_file", "cert_file")
            self.problems.append(f"{self._label(have)}: {self._label(lack)} is missing")
            return
        # Only what was given is tried: a context that trusts the public authorities takes 20 ms to make.
        try:
            if authorities is not None:
                tls_context(authorities, None, None)
        except (ssl.SSLError, ValueError):
            self._problem("ca_file", "holds no certificates in PEM form")
        try:
            if certificate is not None:
                tls_context(None, certificate, key)
        except _EncryptedKeyError:
            self._problem("key_file", "is encrypted; Parley can ask nobody for its passphrase")
        except (ssl.SSLError, ValueError):
            both = f"{self._label('cert_file')} and {self._label('key_file')}"
            self.problems.append(f"{both}: no certificate and key in PEM form that belong together")

    def _inbox_prefix(self) -> str | None:
        prefix = self._given.get("inbox_prefix")
        if prefix is None:
            return None
        prefix = str(prefix).strip().removesuffix(".>").removesuffix(".")
        if not is_allowed_prefix(f"{prefix}.") or re.search(r"[\s*>]|\.\.|^\.", prefix) or not prefix:
            rule = "no prefix for inboxes: no wildcards, no spaces, none of Parley's or the server's own subjects"
            self._problem("inbox_prefix", rule, shown=False)
        return prefix

    def _domain(self) -> str | None:
        domain = self._given.get("jetstream_domain")
        if domain is not None and not _DOMAIN.fullmatch(str(domain)):
            self._problem("jetstream_domain", "no name of a domain: one word, without dots", shown=False)
        return domain

    def _problem(self, name: str, what: str, *, shown: bool = True) -> None:
        path = f"{self._given[name]} " if shown else ""
        self.problems.append(f"{self._label(name)}: {path}{what}")


class _EncryptedKeyError(ValueError):
    """A key that needs a passphrase."""


def tls_context(authorities: str | None, certificate: str | None, key: str | None) -> ssl.SSLContext:
    """Trusts the public authorities and those in `authorities` (PEM). Raises ssl.SSLError, ValueError."""
    context = ssl.create_default_context()
    if authorities is not None:
        context.load_verify_locations(cadata=authorities)
    if certificate is not None:
        # OpenSSL takes a client's certificate from a file only.
        with tempfile.NamedTemporaryFile("w", prefix="parley-") as file:  # made 0600
            file.write(f"{certificate}\n{key}\n")
            file.flush()
            context.load_cert_chain(file.name, password=_no_passphrase)
    return context


def _no_passphrase() -> str:
    raise _EncryptedKeyError


def read_credentials(text: str) -> tuple[str, str]:
    """JWT and seed of a `.creds` file. Raises ValueError saying what lacks."""
    jwt = _JWT.search(text)
    if jwt is None:
        if _SEED.search(text):
            raise ValueError("has a seed and no JWT: it is an nkey file, no credentials file")
        raise ValueError("is no credentials file: it has no NATS USER JWT")
    return jwt[1], read_seed(text)


def read_seed(text: str) -> str:
    """The seed of a user's nkey in `text`. Raises ValueError."""
    seed = _SEED.search(text)
    if seed is None:
        raise ValueError("has no seed of a user's nkey (SU…)")
    try:
        _public_key(seed[0])
    except Exception as error:  # nkeys raises its own errors, binascii's and libsodium's
        raise ValueError("has a seed that is damaged") from error
    return seed[0]


def jwt_expiry(jwt: str) -> float | None:
    """Seconds since the epoch. None: never, or it cannot be read."""
    try:
        middle = jwt.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
        return float(claims["exp"]) or None
    except (IndexError, ValueError, KeyError, TypeError):
        return None


def _public_key(seed: str) -> str:
    key: bytes = _key_pair(seed).public_key
    return key.decode()


def _signed(seed: str, nonce: str) -> bytes:
    return base64.b64encode(_key_pair(seed).sign(nonce.encode()))


def _key_pair(seed: str) -> Any:
    """nkeys's KeyPair, which has no types."""
    # Only who has an nkey pays for the library of its signatures.
    import nkeys

    return nkeys.from_seed(bytearray(seed.encode()))
