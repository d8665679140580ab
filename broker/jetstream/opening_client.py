"""nats-py's client, and what it lacks while it opens a connection: credentials as people write them, no secret to a
server without the TLS that was asked for, and an end to trying where every server has refused."""

import asyncio
from typing import Any
from urllib.parse import ParseResult

import nats.errors
from nats.aio.client import Client, Srv
from nats.aio.transport import TcpTransport

from parley.broker.jetstream.connection_refusals import (
    NO_WEBSOCKET,
    TLS_NOT_FIRST,
    Attempt,
    NotAcceptable,
    refusal,
    unfit_greeting,
)
from parley.broker.jetstream.nats_access import PLAIN, NatsAccess
from parley.broker.jetstream.nats_address import DecodedUri, with_password
from parley.broker.jetstream.nats_mends import MendedClient

# What the server says when the JWT of a connection ends.
_EXPIRED = "user authentication expired"


class OpeningClient(MendedClient):
    def __init__(self, access: NatsAccess = PLAIN) -> None:
        super().__init__()
        self.access = access
        # Of the JetStream that has Parley's streams; None: the server's own.
        self.jetstream_domain = access.domain
        # The last try: its server, whether TCP stood, and the server's greeting.
        self._tried: Srv | None = None
        self._had_tcp = False
        self._greeting: dict[str, Any] | None = None
        # Set while the first connection is made.
        self._is_opening = False
        # A server greeted and did not answer the login in time.
        self.is_login_unanswered = False
        # Why each server refused for good, by host and port. Emptied by success.
        self._refusals: dict[str, str] = {}

    async def connect(self, *arguments: Any, **options: Any) -> None:
        """As nats-py's. Raises NotAcceptable once every server has refused for good."""
        report = options.get("error_cb")

        async def note(error: Exception) -> None:
            if report is not None:
                await report(error)
            self._note_refusal_at_start(error)

        options["error_cb"] = note
        options.update({name: value for name, value in self.access.options().items() if value is not None})
        if self.access.user is None and self.access.password is not None:
            options["servers"] = [with_password(url, self.access.password) for url in options["servers"]]
        options.update(self._login_of_urls(options.get("servers", [])))
        self._is_opening = True
        try:
            await super().connect(*arguments, **options)
        finally:
            self._is_opening = False

    def in_domain(self, subject: str) -> str:
        """Where to publish what is for `subject`: JetStream's own subjects are others in a domain. Between a leaf and
        its hub only these pass, where each has a JetStream of its own."""
        if self.jetstream_domain is None:
            return subject
        if subject.startswith("$JS.API."):
            return self.access.api_prefix + subject.removeprefix("$JS.API.")
        return self.access.api_prefix + subject if subject.startswith("$KV.") else subject

    def _login_of_urls(self, servers: list[str] | str) -> dict[str, str]:
        """The one login of all URLs, as options: servers that NATS names later get it too."""
        if self.access.jwt is not None or self.access.seed is not None or self.access.token is not None:
            return {}
        uris = [self._parse_server_uri(url) for url in ([servers] if isinstance(servers, str) else servers)]
        given = {(uri.username, uri.password) for uri in uris if uri.username is not None}
        if len(given) != 1:
            return {}
        ((user, password),) = given
        return {"token": str(user)} if password is None else {"user": str(user), "password": password}

    @staticmethod
    def _parse_server_uri(connect_url: str) -> ParseResult:
        return DecodedUri(*Client._parse_server_uri(connect_url))

    async def _connect_to_server(self, s: Srv) -> None:
        self._tried, self._had_tcp, self._greeting = s, False, None
        try:
            await super()._connect_to_server(s)
        except ImportError as error:
            raise NotAcceptable("ws:// and wss:// need aiohttp here: pip install aiohttp") from error
        except Exception as error:
            if hasattr(error, "status"):  # aiohttp's ClientResponseError
                raise NotAcceptable(NO_WEBSOCKET) from error
            raise
        self._had_tcp = True

    async def _process_connect_init(self) -> None:
        """Fault: after a failed TLS handshake nats-py waits for ever until the connection is closed, since asyncio tells
        only the protocol that the handshake has replaced. And who cancels an attempt leaves its socket open.

        A server that greets before TLS and takes a handshake then would be waited for: its greeting is read already."""
        tcp = self._transport if isinstance(self._transport, TcpTransport) else None
        if self.access.tls_first and tcp is not None and _is_there(tcp._bare_io_reader):
            raise NotAcceptable(TLS_NOT_FIRST)
        # Of this attempt: after its end another one may use the same transport.
        socket = tcp._bare_io_writer if tcp is not None else None
        try:
            await super()._process_connect_init()
        except asyncio.CancelledError:
            if socket is not None:
                socket.close()
            raise
        except Exception:
            if isinstance(self._transport, TcpTransport):
                self._transport.close()  # type: ignore[no-untyped-call]  # nats-py gives it no types
                self._transport = None
            raise

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        await super()._process_info(info, initial_connection)
        if not initial_connection:
            return
        self._greeting = info
        attempt = self._attempt()
        scheme = _scheme(self._tried)
        tls_wanted = scheme == "tls" or (self.access.wants_tls and not attempt.is_websocket)
        problem = unfit_greeting(attempt, tls_wanted=tls_wanted)
        if problem is not None:
            raise NotAcceptable(problem)
        if tls_wanted and not self.access.tls_first:
            self._server_info["tls_required"] = True  # where the server leaves it to the client

    def _attempt(self) -> Attempt:
        uri = self._tried.uri if self._tried is not None else None
        user, password = self.options.get("user"), self.options.get("password")
        if user is None:
            user, password = self.options.get("token"), None
        if user is None and uri is not None:
            user, password = uri.username, uri.password
        return Attempt(
            host=(uri.hostname or "") if uri is not None else "",
            access=self.access,
            greeting=self._greeting,
            user=user,
            has_password=password is not None,
            is_websocket=_scheme(self._tried) in ("ws", "wss"),
            connected=self._had_tcp,
        )

    def _note_refusal_at_start(self, error: Exception) -> None:
        if not self._is_opening or self._tried is None:
            return
        why = refusal(error, self._attempt())
        place = f"{self._tried.uri.hostname}:{self._tried.uri.port}"
        if why is None:
            self._refusals.pop(place, None)
            self.is_login_unanswered |= isinstance(error, TimeoutError) and self._greeting is not None
            return
        self._refusals[place] = why
        known = {f"{s.uri.hostname}:{s.uri.port}" for s in self._server_pool if not s.discovered}
        if known <= self._refusals.keys():
            raise NotAcceptable(why) from error

    async def _process_err(self, err_msg: str) -> None:
        """A JWT that ends is followed by the one that its file has by then. nats-py closes the connection for good."""
        if _EXPIRED in err_msg.lower() and not self.is_connecting and self.access.has_current_jwt():
            await self._process_op_err(nats.errors.Error(f"nats: {err_msg}"))
            return
        await super()._process_err(err_msg)

    @property
    def refusal_at_start(self) -> str | None:
        """Why a server refused for good, while others did not answer; None if none did."""
        return next(iter(self._refusals.values()), None)


def _is_there(reader: asyncio.StreamReader | None) -> bool:
    """Whether there is something to read, without a turn of the event loop, in which something might come."""
    if reader is None:
        return False
    reading = reader.read(1)
    try:
        reading.send(None)
    except StopIteration as read:
        return bool(read.value)
    finally:
        reading.close()
    return False


def _scheme(server: Srv | None) -> str:
    return server.uri.scheme if server is not None else ""
