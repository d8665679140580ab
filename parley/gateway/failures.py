"""Which problem of the caller an error is. What is the operator's is logged, and not told."""

import logging
from http import HTTPStatus

from parley.broker.core.errors import InvalidMessage, ParleyError, PayloadTooLarge
from parley.client_errors import ClientClosed, UnknownDeliberation
from parley.gateway.problems import Problem, invalid, not_found, try_again

log = logging.getLogger("parley")

# Seconds after which to try again where NATS or the service is away.
AWAY_SECONDS = 2.0


def problem_of(error: Exception) -> Problem:
    match error:
        case Problem():
            return error
        case InvalidMessage():
            return invalid(error.problems)
        case UnknownDeliberation():
            return not_found(error.task_id)
        case PayloadTooLarge():
            return Problem(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "larger than the NATS behind this gateway takes"
            )
        case ParleyError():
            return _unavailable(error)
    log.error("a request failed through a bug", exc_info=error)
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the gateway failed; its log says why")


def _unavailable(error: ParleyError) -> Problem:
    log.warning("a request could not be answered: %s", error)
    # Where NATS is, and with which rights, is not the caller's.
    words = "the gateway is stopping" if isinstance(error, ClientClosed) else "Parley cannot be reached now"
    return try_again(HTTPStatus.SERVICE_UNAVAILABLE, words, AWAY_SECONDS)
