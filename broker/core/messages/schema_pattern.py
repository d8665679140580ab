"""The `pattern` of a JSON schema: what can be read and has a bounded size. Pure.

A reader of it compiles it, and what must be there several times is written out then: three nested repeats of 999 take
gigabytes. So a pattern is measured here without being compiled. The syntax is that of ECMA-262, as JSON Schema says,
without references back; `\\A` and `\\Z`, which are Python's, may be given.
"""

import re
from dataclasses import dataclass
from typing import Final

MAX_PATTERN_CHARACTERS: Final = 1_024
# Characters, sets and groups, each as often as it must be there. The library `regex` takes 0.3 ms and 0.3 MiB for a
# thousand of them (measured).
MAX_PATTERN_PARTS: Final = 4_096
# Python's recursion limit ends a compilation at about 100 groups.
MAX_DEPTH: Final = 32

_CODE = r"\\(?:u[0-9A-Fa-f]{4}|x[0-9A-Fa-f]{2}|[tnrfv]|0(?![0-9])|[^A-Za-z0-9\s])"
_CLASS = r"\\(?:[dDwWsS]|[pP]\{[A-Za-z0-9_=]{1,64}\})"
_MEMBER = re.compile(rf"(?P<code>{_CODE}|\\b|[^\\\[\]]|\[(?!:))|(?P<class>{_CLASS})")
_TOKEN = re.compile(
    rf"""
    (?P<words> [^\\()\[{{*+?|^$]+ )
    | (?P<escaped> {_CODE} | {_CLASS} )
    | (?P<edge> \\[bBAZ] | [\^$] )
    | (?P<look> \(\?<?[=!] )
    | (?P<group> \((?: \?: | \?P?<[A-Za-z_][A-Za-z0-9_]{{0,31}}> | (?!\?) ) )
    | (?P<end> \) )
    | (?P<or> \| )
    | (?P<set> \[\^? )
    | (?P<repeat> (?: [*+?] | \{{ (?P<least>[0-9]{{1,5}}) (?: , (?P<most>[0-9]{{0,5}}) )? \}} ) \?? )
    """,
    re.VERBOSE,
)
_CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v", "b": "\b", "0": "\0"}


@dataclass(slots=True)
class _Group:
    # Whether it only looks, which cannot be repeated.
    looks: bool = False
    parts: int = 0
    # Of what was read last; 0: it cannot be repeated.
    last: int = 0

    def add(self, parts: int, *, repeatable: bool = True) -> None:
        self.parts += parts
        self.last = parts if repeatable else 0


def pattern_parts(pattern: str) -> int:
    """How many parts it has when what must be there several times is written out. Raises ValueError: what is wrong."""
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        raise ValueError(f"has {len(pattern)} characters, more than {MAX_PATTERN_CHARACTERS}")
    place, open_groups = 0, [_Group()]
    while place < len(pattern):
        token = _TOKEN.match(pattern, place)
        if token is None:
            raise ValueError(f"cannot be read from character {place + 1} on")
        group = open_groups[-1]
        match token.lastgroup:
            case "words":
                group.parts += len(token[0]) - 1
                group.add(1)
            case "escaped":
                group.add(1)
            case "edge" | "or":
                group.add(1, repeatable=False)
            case "group" | "look":
                open_groups.append(_Group(token.lastgroup == "look"))
                if len(open_groups) > MAX_DEPTH:
                    raise ValueError(f"has more than {MAX_DEPTH} groups within each other")
            case "end":
                _close(open_groups, place)
            case "set":
                place = _end_of_set(pattern, token.end(), group)
                continue
            case _:
                _repeat(group, token, place)
        place = token.end()
    if len(open_groups) > 1:
        raise ValueError("has a group that is not closed")
    return _counted(open_groups[0].parts)


def _counted(parts: int) -> int:
    if parts > MAX_PATTERN_PARTS:
        raise ValueError(
            f"has more than {MAX_PATTERN_PARTS} parts when what must be there several times is written out"
        )
    return parts


def _close(open_groups: list[_Group], place: int) -> None:
    if len(open_groups) == 1:
        raise ValueError(f"closes a group at character {place + 1} that is not open")
    closed = open_groups.pop()
    open_groups[-1].add(closed.parts + 1, repeatable=not closed.looks)


def _repeat(group: _Group, token: re.Match[str], place: int) -> None:
    if not group.last:
        raise ValueError(f"has nothing to repeat at character {place + 1}")
    least, most = int(token["least"] or 0), token["most"]
    if most and int(most) < least:
        raise ValueError(f"repeats from more to less at character {place + 1}")
    group.parts = _counted(group.parts + group.last * (max(1, least) - 1))
    group.last = 0


def _end_of_set(pattern: str, start: int, group: _Group) -> int:
    """The place after it. Its members count once, however often it is repeated: they are written out once."""
    place, members = start, 0
    # Of a range: its first character, once the `-` is read.
    first: str | None = None
    last: str | None = None
    while not pattern.startswith("]", place) or not members:
        member = _MEMBER.match(pattern, place)
        if member is None:
            raise ValueError(f"has a set that cannot be read from character {place + 1} on")
        members += 1
        code = _code(member["code"]) if member["code"] else None
        if first is not None:
            if code is None or code < first:
                raise ValueError(f"has a range that ends before it begins at character {place + 1}")
            first = last = None
        elif member[0] == "-" and last is not None and not pattern.startswith("]", member.end()):
            first = last
        else:
            last = code
        place = member.end()
    group.parts += members
    group.add(1)
    return place + 1


def _code(text: str) -> str:
    """The character that it stands for."""
    if not text.startswith("\\"):
        return text
    digits = text[2:]
    if digits:
        return chr(int(digits, 16))
    return _CONTROLS.get(text[1], text[1])
