"""The errors of a call to a model server: what a refusal, a redirect and a broken connection mean, without secrets."""

import errno
import time
from http import HTTPStatus

import aiohttp
import httpx

from parley.broker.core.messages import ErrorType
from parley.workers.model import error_body
from parley.workers.model.answer_secrets import calls_without_secrets
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.model_error import ModelError
from parley.workers.model.retry_after import retry_after
from parley.workers.model.secret_masking import is_no_word, struck_out
from parley.workers.model.server_access import AUTHORIZATION, ServerAccess
from parley.workers.model.web_page import is_web_page, page_title

# Of a redirect's target, in an error.
MAX_TARGET_CHARACTERS = 160
# These two repeat the call as it is. A POST becomes a GET with the others, which asks for something else.
_SAME_METHOD = frozenset({HTTPStatus.TEMPORARY_REDIRECT, HTTPStatus.PERMANENT_REDIRECT})
# Google refuses a wrong key with 400, as it refuses a wrong question.
_GOOGLES_WRONG_KEY = b"API_KEY_INVALID"
_NOTHING_THERE = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED)


class CallErrors:
    """Makes the errors of one client's calls. `access` and `api_key`: as the client has them; no text shows them."""

    def __init__(self, access: ServerAccess, api_key: str | None) -> None:
        self._key_header = access.key_header
        self._names = access.names
        self._has_key = bool(api_key)
        self._has_headers = bool(access.headers)
        # What no text may show, beside what an endpoint's URL holds.
        self._secrets = access.secrets(api_key)
        # What no answer may show either.
        self._secrets_in_answers = access.secrets_in_answers(api_key)
        # These and those of the URL, by endpoint: to take a URL apart costs as much as to look for them.
        self._by_endpoint: dict[Endpoint, tuple[str, ...]] = {}

    def clean(self, endpoint: Endpoint, error: ModelError) -> None:
        """Leave nothing in the error's text that others must not read: they read an outcome's `error`."""
        if error.error_type is ErrorType.UNAUTHORIZED:
            error.message = self._key_advice(endpoint, error.status)
        else:
            error.message = self._struck_out(endpoint, error.message)
        error.server_text = ""
        if error.tool_calls:
            error.tool_calls = calls_without_secrets(error.tool_calls, self.secrets_in_answers(endpoint))
        error.args = (error.error_type, error.message)

    def secrets_in_answers(self, endpoint: Endpoint) -> tuple[str, ...]:
        """What no answer of this endpoint may show."""
        found = self._by_endpoint.get(endpoint)
        if found is None:
            found = (*self._secrets_in_answers, *filter(is_no_word, endpoint.secrets))
            self._by_endpoint[endpoint] = found
        return found

    def _struck_out(self, endpoint: Endpoint, text: str) -> str:
        return struck_out(text, (*self._secrets, *endpoint.secrets))

    def _key_advice(self, endpoint: Endpoint, status: int | None) -> str:
        """In our words: the server's own may quote the key."""
        said = (
            "the model server" if status is None or status < HTTPStatus.BAD_REQUEST else f"HTTP {status}: it"
        )
        # A 403 may also be about the model, the account or the place that the call comes from.
        forbidden = " or what is asked with it" if status == HTTPStatus.FORBIDDEN else ""
        names = self._names
        if self._has_key:
            plain = self._key_header.lower() == AUTHORIZATION
            sent = "" if plain else f", and is it wanted in the header `{self._key_header}`"
            return f"{said} refuses the key{forbidden}, is {names.key} right{sent}?"
        if endpoint.authorization is not None:
            return f"{said} refuses the user or the password in {names.url}{forbidden}"
        if self._has_headers:
            return f"{said} refuses what {names.headers} holds{forbidden}, or wants {names.key}, which is not set"
        if forbidden:
            return f"{said} does not allow the call; {names.key} is not set"
        return f"{said} wants a key, and {names.key} is not set"

    def of_refusal(self, endpoint: Endpoint, response: httpx.Response, body: bytes) -> ModelError:
        """The error for a status that is no answer's."""
        status = response.status_code
        if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            return ModelError(ErrorType.CONNECTION_FAILED, self._proxy_refuses(status), status=status)
        # Without secrets before it is cut: half a key must not stay at its end.
        clean = self._struck_out(endpoint, body.decode(errors="replace")).encode()
        error = error_body.refusal(status, clean)
        if status == HTTPStatus.BAD_REQUEST and _GOOGLES_WRONG_KEY in body:
            error.error_type = ErrorType.UNAUTHORIZED
        if is_web_page(body, response.headers.get("content-type", "")):
            error.message = f"HTTP {status} from the model server: a web page{page_title(clean)}"
        if status in _NOTHING_THERE and b"model" not in body.lower():
            error.message = f"{error.message}; is the URL right? {endpoint} has nothing there"
        error.retry_after = retry_after(response.headers, body, time.time())
        return error

    def of_broken(self, endpoint: Endpoint, error: Exception) -> ModelError:
        """The error for a call that broke, told by aiohttp's exception.

        httpx-aiohttp makes a ConnectTimeout of a connection that the server closed, with aiohttp's exception as
        its cause. For an answer that is not HTTP it raises aiohttp's exception itself.
        """
        failed = ErrorType.CONNECTION_FAILED
        if _is_ours(error):
            text = f"cannot connect to {endpoint}: too many open files in this process"
            return ModelError(failed, text, is_ours=True)
        match error if isinstance(error, aiohttp.ClientError) else error.__cause__:
            case aiohttp.ClientConnectorCertificateError() as untrusted:
                return ModelError(failed, f"cannot connect to {endpoint}: {self._distrust(untrusted)}")
            case aiohttp.ClientProxyConnectionError():
                return ModelError(
                    failed, f"cannot connect to the proxy of {self._names.proxy}: {_reason(error)}"
                )
            case aiohttp.ClientHttpProxyError() as refused:
                return ModelError(failed, f"no way to {endpoint}: {self._proxy_refuses(refused.status)}")
            case aiohttp.ClientConnectorSSLError() as tls:
                return ModelError(failed, f"cannot connect to {endpoint} over TLS: {_tls_reason(tls)}")
            case aiohttp.ClientConnectorError() as unreachable:
                return ModelError(failed, f"cannot connect to {endpoint}: {unreachable.os_error}")
            case aiohttp.ConnectionTimeoutError() | aiohttp.InvalidURL():
                return ModelError(failed, f"cannot connect to {endpoint}: {_reason(error)}")
            case aiohttp.ClientResponseError() as response:
                text = " ".join(error_body.error_text({"error": response.message}).split())
                return ModelError(ErrorType.MALFORMED_ANSWER, f"{endpoint} does not answer in HTTP: {text}")
            case _:
                return ModelError(
                    ErrorType.CONNECTION_LOST, f"connection to {endpoint} lost: {_reason(error)}"
                )

    def _proxy_refuses(self, status: int) -> str:
        return f"the proxy of {self._names.proxy} refuses: HTTP {status}; are its user and password right?"

    def _distrust(self, error: aiohttp.ClientConnectorCertificateError) -> str:
        reason = getattr(error.certificate_error, "verify_message", "") or str(error.certificate_error)
        remedy = f"; {self._names.certificates} takes the certificate of your own authority"
        unknown = "issuer" in reason or "self" in reason
        return f"its certificate is not trusted ({reason}){remedy if unknown else ''}"


def is_lost(error: Exception) -> bool:
    """Whether an open connection broke. One that could not be opened was never there."""
    cause = error if isinstance(error, aiohttp.ClientError) else error.__cause__
    return isinstance(cause, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError) and not isinstance(
        cause, aiohttp.ClientConnectorError
    )


def silent(endpoint: Endpoint, seconds: float) -> ModelError:
    """The error for a server that sent nothing within `seconds`."""
    return ModelError(ErrorType.FIRST_BYTE_TIMEOUT, f"nothing from {endpoint} within {seconds:g} s")


def web_page(response: httpx.Response, body: bytes) -> ModelError:
    """The error for a web page where an answer should be."""
    text = f"that is a web page{page_title(body)}, not an OpenAI-compatible server; is the URL right?"
    return ModelError(ErrorType.MALFORMED_ANSWER, text, status=response.status_code)


def redirected(
    endpoint: Endpoint, method: str, url: httpx.URL, response: httpx.Response, setting: str
) -> httpx.URL:
    """Where a call to `url` goes on. `setting`: what names the endpoint. Raises ModelError if that is another server, or
    would be another call."""
    status, target = response.status_code, _target(url, response)
    if target is None:
        text = f"HTTP {status} from {endpoint}, without a target"
        raise ModelError(ErrorType.MODEL_NOT_FOUND, text, status=status)
    same = (target.scheme, target.host, target.port) == (
        url.scheme,
        url.host,
        url.port,
    ) and not target.userinfo
    if same and (status in _SAME_METHOD or method == "GET"):
        return target
    elsewhere = f"not followed: the key goes to no other server. Should {setting} name that one?"
    why = f"not followed with a question; {setting} should name that" if same else elsewhere
    text = f"HTTP {status} from {endpoint}, which points to {Endpoint(str(target)[:MAX_TARGET_CHARACTERS])}; {why}"
    raise ModelError(ErrorType.MODEL_NOT_FOUND, text, status=status)


def _target(url: httpx.URL, response: httpx.Response) -> httpx.URL | None:
    location = response.headers.get("location")
    try:
        return url.join(location) if location else None
    except (httpx.InvalidURL, ValueError):
        return None


def _tls_reason(error: aiohttp.ClientConnectorSSLError) -> str:
    reason = str(error.os_error)
    plain = any(sign in reason for sign in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"))
    return f"{reason}; does it want http:// instead of https://?" if plain else reason


def _is_ours(error: BaseException | None) -> bool:
    """Whether this process, or this machine, has no descriptor left for a connection."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            return True
        error = error.__cause__ or error.__context__
    return False


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
