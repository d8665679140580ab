"""A nats-server with any configuration; operators, accounts and users as `nsc` makes them."""

import asyncio
import base64
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nkeys

from parley.broker import child_process
from parley.broker.jetstream.embedded import _address, executable

UNLIMITED = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf", "mem_storage", "disk_storage", "streams", "consumer"), -1) | {"wildcards": True}  # fmt: skip


@asynccontextmanager
async def nats_server(folder: Path, configuration: str = "", *, jetstream: bool = True) -> AsyncIterator[str]:
    """Yields `host:port` of its clients."""
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    store = f'jetstream {{ store_dir: "{folder}/store" }}\n' if jetstream else ""
    path = folder / "nats.conf"
    path.write_text(
        f'listen: "127.0.0.1:-1"\nports_file_dir: "{folder}"\nlog_file: "{folder}/nats-server.log"\n'
        f"{store}{configuration}\n"
    )
    command = (executable(), "-c", str(path))
    async with child_process.child(command, lambda process: _address(folder, process)) as (_, address):
        yield address.removeprefix("tls://")


class KeyPair:
    """`kind`: nkeys's prefix byte."""

    def __init__(self, kind: int) -> None:
        self.seed = nkeys.encode_seed(os.urandom(32), kind).decode()
        self.pair = nkeys.from_seed(bytearray(self.seed.encode()))
        self.public: str = self.pair.public_key.decode()

    def jwt(self, subject: str, name: str, nats: dict[str, Any], *, expires: float | None = None) -> str:
        """What this key says of `subject`, signed."""
        claims = {
            "jti": name,
            "iat": int(time.time()),
            "iss": self.public,
            "sub": subject,
            "name": name,
            "nats": nats,
        }
        if expires is not None:
            claims["exp"] = int(expires)
        signed = ".".join(
            _encoded(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, claims)
        )
        return f"{signed}.{_encoded(self.pair.sign(signed.encode()))}"


class Operator:
    """An operator with a system account and one account with JetStream."""

    def __init__(self) -> None:
        self._key = KeyPair(nkeys.PREFIX_BYTE_OPERATOR)
        self._account = KeyPair(nkeys.PREFIX_BYTE_ACCOUNT)
        system = KeyPair(nkeys.PREFIX_BYTE_ACCOUNT)
        own = self._key.jwt(self._key.public, "O", {"type": "operator", "version": 2})
        listed = "".join(
            f"  {account.public}: {self._key.jwt(account.public, name, {'limits': limits, 'type': 'account', 'version': 2})}\n"
            for account, name, limits in (
                (self._account, "A", UNLIMITED),
                (
                    system,
                    "SYS",
                    {**UNLIMITED, "mem_storage": 0, "disk_storage": 0, "streams": 0, "consumer": 0},
                ),
            )
        )
        self.configuration = f"operator: {own}\nsystem_account: {system.public}\nresolver: MEMORY\nresolver_preload: {{\n{listed}}}\n"

    def credentials(self, *, expires: float | None = None) -> str:
        """The text of a new user's `.creds` file."""
        user = KeyPair(nkeys.PREFIX_BYTE_USER)
        limits = {"subs": -1, "data": -1, "payload": -1}
        jwt = self._account.jwt(
            user.public, "u", {"pub": {}, "sub": {}, **limits, "type": "user", "version": 2}, expires=expires
        )
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\nNKEYs are sensitive.\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n\n*****\n"
        )


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def private_file(path: Path, text: str) -> Path:
    """A file that only its owner can read."""
    path.touch(mode=0o600)
    path.write_text(text)
    return path
