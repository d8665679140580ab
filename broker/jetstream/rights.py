"""Which rights each part of the service and a worker need, and which of them a user lacks. Pure.

A right is to publish or to subscribe. nats-server tells a user's own rights (`$SYS.REQ.USER.INFO`), so what lacks is
known before it is needed.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from parley.broker.core.reply_subjects import SERVICE_INBOX, WORKER_INBOX
from parley.broker.jetstream import topology
from parley.broker.jetstream.acks_and_pulls import next_subject

# Answers with the rights of who asks.
USER_INFO = "$SYS.REQ.USER.INFO"


class Verb(StrEnum):
    PUBLISH = "publish to"
    SUBSCRIBE = "subscribe to"


@dataclass(frozen=True, slots=True)
class Right:
    """`subject`: as a permission names it. A `*` or `>` in it stands for a name that is not known beforehand."""

    verb: Verb
    subject: str

    @property
    def sample(self) -> str:
        """A subject of this right, to compare with what is allowed."""
        return ".".join("x" if token in ("*", ">") else token for token in self.subject.split("."))

    def matches(self, subject: str) -> bool:
        """Whether it is a right to `subject`, in whatever case: nats-py reports refusals in lower case."""
        return covers(self.subject.lower(), subject.lower())

    def __str__(self) -> str:
        return f"{self.verb} {self.subject}"


@dataclass(frozen=True, slots=True)
class Permissions:
    """What a user may. `allow` None: anything; `deny` is taken from it."""

    allow: Mapping[Verb, Sequence[str] | None]
    deny: Mapping[Verb, Sequence[str]]

    def permits(self, right: Right) -> bool:
        allowed, sample = self.allow.get(right.verb), right.sample
        if allowed is not None and not any(covers(pattern, sample) for pattern in allowed):
            return False
        return not any(covers(pattern, sample) for pattern in self.deny.get(right.verb, ()))


ANYTHING = Permissions({}, {})


def read_permissions(answer: Any) -> Permissions | None:
    """From the answer to `USER_INFO`, read as JSON; None if it is none. Any: every JSON value."""
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, dict):
        return None
    found = data.get("permissions")
    if not isinstance(found, dict):
        return ANYTHING
    sides = {Verb.PUBLISH: found.get("publish") or {}, Verb.SUBSCRIBE: found.get("subscribe") or {}}
    allow = {verb: _subjects(side.get("allow")) or None for verb, side in sides.items()}
    return Permissions(allow, {verb: _subjects(side.get("deny")) for verb, side in sides.items()})


def _subjects(listed: Any) -> list[str]:
    """Without the queue groups that a permission to subscribe may name. Any: every JSON value."""
    if not isinstance(listed, list):
        return []
    return [subject.split(" ")[0] for subject in listed if isinstance(subject, str)]


def covers(pattern: str, subject: str) -> bool:
    """Whether `pattern` matches `subject`, which has no wildcards."""
    wanted, found = pattern.split("."), subject.split(".")
    for place, token in enumerate(wanted):
        if token == ">":
            return len(found) > place
        if place >= len(found) or token not in ("*", found[place]):
            return False
    return len(wanted) == len(found)


# ── what is needed ────────────────────────────────────────────────────────────────────────────────────────────────

_DECIDING = (f"{topology.TIMER}.*", topology.tally_subject("*"), topology.FAILED)
_READ_TALLY = f"$JS.API.STREAM.MSG.GET.{topology.TALLIES}"
_READ_TALLIES = (_READ_TALLY, f"$JS.API.DIRECT.GET.{topology.TALLIES}")
_READ_ENDING = f"$JS.API.DIRECT.GET.{topology.DELIBERATIONS}"
_PUBLISH: Mapping[str, tuple[str, ...]] = {
    "intake": (*_DECIDING, *_READ_TALLIES, topology.AGENT_REQUESTED),
    "dispatch": (),
    "aggregate": (
        *_DECIDING, *_READ_TALLIES, topology.COMPLETED, topology.AGENT_REQUESTED, topology.AGENT_CANCEL, f"$O.{topology.RESULTS_BUCKET}.C.*",
        f"$O.{topology.RESULTS_BUCKET}.M.*",
    ),
    "query": (topology.AGENT_RUNNING, _READ_TALLY, _READ_ENDING),
}  # fmt: skip
_SUBSCRIBE: Mapping[str, tuple[str, ...]] = {
    "intake": (),
    "dispatch": (topology.AGENT_CANCEL,),
    "aggregate": (),
    "query": (topology.GET,),
}
_DURABLES: Mapping[str, tuple[topology.Durable, ...]] = {
    "intake": (topology.INTAKE,),
    "dispatch": (topology.DISPATCH,),
    "aggregate": (topology.AGGREGATE, topology.EXPIRY, topology.CANCELLER),
    "query": (),
}


def needed_by_service(
    parts: Collection[str], *, inbox: str, reply_prefixes: Iterable[str]
) -> tuple[Right, ...]:
    """`inbox`: the prefix of its inboxes. `reply_prefixes`: of the subjects that endings and answers are sent to.

    Rights to ask for streams and consumers are not among them: readiness asks for each.
    """
    publish: list[str] = []
    subscribe = [f"{inbox}.*", topology.SERVICE]
    if set(parts) - {"dispatch"}:
        publish += (f"{prefix}*" for prefix in reply_prefixes)
    for part in sorted(parts):
        publish += _PUBLISH[part]
        subscribe += _SUBSCRIBE[part]
        for durable in _DURABLES[part]:
            dead = durable.filter.replace("*", "completed")
            publish += (
                next_subject(durable.stream, durable.name),
                _acknowledgements(durable),
                topology.dead_letter_subject(dead),
                f"{topology.SUSPECT}.{durable.stream}.{durable.name}.*",
            )
    return _rights(publish, subscribe)


def needed_by_worker(inbox: str, *, limited: bool = False) -> tuple[Right, ...]:
    """`inbox`: the prefix of its inboxes. `limited`: a model server has a limit, which all workers share. The right to
    read answers is not among them: only judges need it."""
    publish = (
        topology.AGENT_COMPLETED,
        topology.AGENT_FAILED,
        f"$JS.API.STREAM.INFO.{topology.DELIBERATIONS}",
        f"$JS.API.DIRECT.GET.{topology.REQUESTS}",
        _READ_TALLY,
        _acknowledgements(topology.DISPATCH),
        *((topology.limit_subject("*"), f"$JS.API.STREAM.MSG.GET.{topology.LIMITS}") if limited else ()),
    )
    return _rights(publish, (f"{inbox}.*", topology.AGENT_CANCEL, topology.AGENT_RUNNING))


def _acknowledgements(durable: topology.Durable) -> str:
    return f"$JS.ACK.{durable.stream}.{durable.name}.>"


def _rights(publish: Iterable[str], subscribe: Iterable[str]) -> tuple[Right, ...]:
    rights = [Right(Verb.PUBLISH, subject) for subject in publish]
    rights += [Right(Verb.SUBSCRIBE, subject) for subject in subscribe]
    return tuple(dict.fromkeys(rights))


# ── what was refused ──────────────────────────────────────────────────────────────────────────────────────────────

# Subjects with a name in them: a refusal of each is one of the same right.
_NAMED = (
    f"{topology.TIMER}.*", topology.tally_subject(">"), topology.limit_subject("*"), f"$O.{topology.RESULTS_BUCKET}.C.>",
    f"$O.{topology.RESULTS_BUCKET}.M.>", f"{topology.DEAD_LETTER}.>", f"{topology.SUSPECT}.*.*.*", "_INBOX.>",
    "_R_.>", f"{SERVICE_INBOX}.>", f"{WORKER_INBOX}.>", f"$JS.API.DIRECT.GET.{topology.TALLIES}.>",
    f"$JS.API.DIRECT.GET.{topology.RESULTS}.>",
    *map(_acknowledgements, topology.DURABLES),
    *(next_subject(durable.stream, durable.name) for durable in topology.DURABLES),
    *(f"$JS.API.CONSUMER.{verb}.{durable.stream}.{durable.name}" for durable in topology.DURABLES
      for verb in ("INFO", "CREATE", "DELETE")),
    *(f"$JS.API.{verb}.{stream.name}" for stream in topology.streams(limits=True)
      for verb in ("STREAM.INFO", "STREAM.MSG.GET", "STREAM.PURGE", "STREAM.CREATE", "STREAM.UPDATE", "STREAM.MSG.DELETE",
                   "DIRECT.GET", "CONSUMER.CREATE", "CONSUMER.LIST", "CONSUMER.NAMES")),
    "$JS.API.CONSUMER.CREATE.*.>", "$JS.API.CONSUMER.DELETE.*.*", "$JS.API.CONSUMER.MSG.NEXT.*.*", "$JS.API.INFO",
    "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", USER_INFO,
)  # fmt: skip


def refused_right(verb: Verb, subject: str) -> Right:
    """The right that a refusal is about. `subject`: nats-py writes it in lower case."""
    for pattern in _NAMED:
        if covers(pattern.lower(), subject.lower()):
            return Right(verb, pattern)
    return Right(verb, subject)
