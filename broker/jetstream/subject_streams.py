"""Which stream stores what is published to a subject, for the check of acknowledgements. From the declared topology."""

from collections.abc import Iterable

from parley.broker.jetstream import topology

# 0.1.0 kept these two in DELIBERATIONS: a newer client may meet its streams.
_ELSEWHERE_BEFORE = {topology.REQUESTED: topology.DELIBERATIONS, topology.CANCEL: topology.DELIBERATIONS}


def _declared() -> Iterable[tuple[str, str]]:
    for stream in topology.streams(limits=True):
        for subject in stream.subjects or ():
            yield subject, stream.name or ""


_EXACT = {subject: stream for subject, stream in _declared() if not subject.endswith(("*", ">"))}
_BY_PREFIX = tuple((subject[:-1], stream) for subject, stream in _declared() if subject.endswith(("*", ">")))


def stream_of(subject: str) -> str | None:
    """The stream that stores `subject`, None for a subject of no stream of ours."""
    known = _EXACT.get(subject)
    if known is not None:
        return known
    for prefix, stream in _BY_PREFIX:  # a comprehension would cost more than all comparisons
        if subject.startswith(prefix):
            return stream
    return None


def may_acknowledge(stream: str, subject: str) -> bool:
    """Whether an acknowledgement from `stream` may be for a message on `subject`."""
    expected = stream_of(subject)
    return expected is None or stream in (expected, _ELSEWHERE_BEFORE.get(subject))
