"""Reads a judge's ballot from its words: a whole ranking of what it was shown, or nothing. Pure.

Nothing is guessed: a label that is only mentioned is no rank. Read in any other way, the free texts of a small model
gave 21 rankings in 60 that it had not made (measured).
"""

import re
from typing import Any

from parley.broker.core.judging_orders import LABELS, is_whole_ranking
from parley.broker.core.messages import MAX_NOTES_CHARACTERS, Ballot
from parley.workers.json_in_text import MAX_CHARACTERS, ends_with_object, objects, whole_object

# Between two labels of a ranking within an object. Not `=`: a tie is no ranking.
_BETWEEN = re.compile(r"[\s>,;]+")
# Around a line that is a ranking, and around each of its labels: marks of emphasis, quotes, brackets.
_AROUND = "*_`\"'.[]() \t"
# `1. C, 2. A, 3. B`
_NUMBERED = re.compile(r"(\d)[.)]\s*([A-H])[\s,;]*")
# A line that is longer is none.
_MAX_LINE = 120
# Words that turn an order round.
_WORST_FIRST = re.compile(r"\bworst\W+(?:to|first)\b|\bleast\W+(?:\w+\W+)?to\b|\bascending\b", re.IGNORECASE)


def read_ballot(text: str, shown: int, *, whole_only: bool = False) -> Ballot | None:
    """The ballot in these words, over the first `shown` labels. None if there is none.

    `whole_only`: the words were cut off, or held back: only an object that stands alone is a ballot then.
    """
    whole = whole_object(text)
    ballot = _of_object(whole, shown, repaired=False) if whole is not None else None
    if ballot is not None or whole_only:
        return ballot
    named = [found for found in objects(text) if "ranking" in found]
    if not named:
        return _of_last_line(text, shown)
    # One of several may be an answer's, quoted. So may one be in the midst of words: the judge's own is its last word.
    agree = all(found["ranking"] == named[0]["ranking"] for found in named)
    return _of_object(named[0], shown, repaired=True) if agree and ends_with_object(text) else None


def _of_object(found: dict[str, Any], shown: int, *, repaired: bool) -> Ballot | None:
    value, notes = found.get("ranking"), found.get("notes")
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        value = "".join(value)
    if not isinstance(value, str) or len(value) > _MAX_LINE:
        return None
    ranking = _BETWEEN.sub("", value)
    if not is_whole_ranking(ranking, shown):
        return None
    told = notes[:MAX_NOTES_CHARACTERS] if isinstance(notes, str) else ""
    return Ballot(ranking=ranking, notes=_encodable(told), repaired=repaired or ranking != value)


def _of_last_line(text: str, shown: int) -> Ballot | None:
    """From the last line, if it is a ranking and nothing else: `C > A > B`, `1. C, 2. A, 3. B` or `CAB`. Labels with
    commas between them may be a list of what was shown; so may they be in the order in which they were shown."""
    lines = text[-4 * MAX_NOTES_CHARACTERS :].split("\n")
    line = next((line for line in reversed(lines) if line.strip()), "").strip(_AROUND)
    if len(line) > _MAX_LINE or _WORST_FIRST.search(text[-MAX_CHARACTERS:]):
        return None
    numbered = _NUMBERED.findall(line)
    if numbered and not _NUMBERED.sub("", line):
        in_order = [int(number) for number, _ in numbered] == list(range(1, shown + 1))
        ranking = "".join(label for _, label in numbered) if in_order else ""
    else:
        labels = [part.strip(_AROUND) for part in line.split(">")]
        is_one = len(labels) == shown or (len(labels) == 1 and line != LABELS[:shown])
        ranking = "".join(labels) if is_one else ""
    return Ballot(ranking=ranking, repaired=True) if is_whole_ranking(ranking, shown) else None


def _encodable(text: str) -> str:
    """Without lone surrogates, which JSON may hold and UTF-8 may not."""
    return text.encode(errors="replace").decode()
