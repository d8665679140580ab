"""Errors of the gateway: which field is wrong, and what to do. Pure.

Their kinds are HTTP's. `body` is RFC 9457's form (`application/problem+json`); grpc_messages.py has gRPC's.
"""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any


class Problem(Exception):
    """A request that cannot be answered. `fields`: (name of a field, what is wrong with it). `retry_seconds`: for one that
    passes, after which to try again."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        fields: Iterable[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        retry_seconds: float | None = None,
    ) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.fields = tuple(fields)
        self.headers = dict(headers or {})
        self.retry_seconds = retry_seconds

    def body(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            "type": "about:blank", "title": self.status.phrase, "status": self.status.value, "detail": self.detail,
        }  # fmt: skip
        if self.fields:
            told["errors"] = [{"field": name, "message": words} for name, words in self.fields]
        return told


def invalid(problems: Iterable[str]) -> Problem:
    """Of the problems of a message, each `field: what is wrong`."""
    fields = []
    for problem in problems:
        name, colon, words = problem.partition(": ")
        fields.append((name, words) if colon else ("", problem))
    detail = "; ".join(f"{name}: {words}" if name else words for name, words in fields)
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, fields=fields)


def not_found(task_id: str) -> Problem:
    return Problem(HTTPStatus.NOT_FOUND, f"{task_id}: never stored, or forgotten")


def try_again(status: HTTPStatus, detail: str, seconds: float) -> Problem:
    """One that passes. `seconds`: after which to try again."""
    return Problem(
        status, detail, headers={"Retry-After": str(max(1, round(seconds)))}, retry_seconds=seconds
    )
