"""Cuts a model's reasoning off its answer where a server leaves it in the text, between marks. Pure.

`<think>` and `</think>`, in any case and nested; the channels of gpt-oss, `<|channel|>analysis` and `<|channel|>final`. A
mark that the text only speaks of, in quotation marks or within a sentence, is none.
"""

import re
from itertools import islice

# Not `<reasoning>`: people ask for an answer in that form, and few models write it unasked.
_TAGS = (
    *((f"<{name}>", f"</{name}>") for name in ("think", "thinking", "thought", "seed:think")),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
# (opening in small letters, both marks with the opening as group 1).
_PAIRS = tuple(
    (opening.lower(), re.compile(f"({re.escape(opening)})|{re.escape(closing)}", re.IGNORECASE))
    for opening, closing in _TAGS
)
# gpt-oss without its special tokens begins with the word.
_OPENINGS = (*(opening for opening, _ in _PAIRS), "<|channel|>", "<|start|>", "analysis")
_LONGEST_OPENING = max(map(len, _OPENINGS))
# Each closing tag begins with one of these. A text without any holds no reasoning.
_CLOSINGS = ("</", "[/", "◁/", "<|")
# A sentence goes on after the tag, which it is about: "<think> is a tag".
_SENTENCE = re.compile(r"[ ,.;:)]+[a-z]")
_BLANK_REST = re.compile(r"\s*\Z")
_QUOTES = frozenset("`'\"“”‘’«»")
_FENCE = "```"
# The end of a reasoning whose last sentence stands before the tag.
_SENTENCE_ENDS = (".", "!", "?", "…", "。", ")", "*", ":")
# More is no reasoning of a model, and takes long to read.
_MOST_PIECES = 64
_CHANNEL = re.compile(
    r"<\|channel\|>\s*(\w+).{0,100}?<\|message\|>(.*?)(?=<\|(?:end|return|call|start|channel)\|>|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_BETWEEN_CHANNELS = re.compile(r"<\|(?:end|return|call)\|>|<\|start\|>\w*")
_BARE_CHANNELS = re.compile(r"\s*analysis(.*?)assistantfinal(.*)\Z", re.DOTALL)


def without_thinking(content: str) -> tuple[str, str]:
    """(answer, reasoning) of a text that may begin with the model's reasoning, in one piece or several.

    A chat template may have written the opening tag into the prompt: then only the closing one is here, on a line of
    its own or after a sentence. Reasoning that the model did not finish has no answer after it.
    """
    opened = content.lstrip()[:_LONGEST_OPENING].lower().startswith(_OPENINGS)
    if not opened and not any(mark in content for mark in _CLOSINGS):
        return content, ""
    if opened and (by_channel := _channels(content)) is not None:
        return by_channel
    answer, found = content, list[str]()
    while len(found) < _MOST_PIECES and (cut := _first_reasoning(answer)) is not None:
        answer, reasoning = cut
        found.append(reasoning)
    if found:
        return answer, "\n".join(filter(None, found))
    for _, marks in _PAIRS:
        closing = _lone_closing(content, marks)
        if closing is not None:
            return content[closing.end() :].lstrip(), content[: closing.start()].strip()
    return content, ""


def _channels(content: str) -> tuple[str, str] | None:
    """The answer and the reasoning of gpt-oss, which writes each into a channel of its own."""
    if (bare := _BARE_CHANNELS.match(content)) is not None:
        return bare[2].strip(), bare[1].strip()
    channels = list(_CHANNEL.finditer(content)) if content.lstrip().startswith("<|") else []
    if not channels:
        return None
    answers = [one[2] for one in channels if one[1].lower() == "final"]
    thoughts = [one[2].strip() for one in channels if one[1].lower() != "final"]
    rest = _BETWEEN_CHANNELS.sub("", content[channels[-1].end() :])
    return "".join([*answers, rest]).strip(), "\n".join(filter(None, thoughts))


def _first_reasoning(content: str) -> tuple[str, str] | None:
    """(what follows, reasoning) if the text begins with reasoning."""
    start = content.lstrip()
    head = start[:_LONGEST_OPENING].lower()
    for opening, marks in _PAIRS:
        if head.startswith(opening):
            inside = start[len(opening) :]
            closing, is_sure = _closing(inside, marks)
            if not is_sure and _SENTENCE.match(inside):
                return None
            if closing is None:
                return "", inside.strip()
            return inside[closing.end() :].lstrip(), inside[: closing.start()].strip()
    return None


def _closing(inside: str, marks: re.Pattern[str]) -> tuple[re.Match[str] | None, bool]:
    """The mark that closes the reasoning, and False if it may be a word of it. `inside`: what follows the opening."""
    first = in_doubt = outermost = None
    depth, lowest = 1, None
    fences = searched = 0
    last_fence = inside.rfind(_FENCE)
    for mark in marks.finditer(inside):
        is_opening, place = mark[1] is not None, mark.start()
        first = first or (None if is_opening else mark)
        fences += inside.count(_FENCE, searched, place)
        searched = place
        if _is_quoted(inside, mark) or (fences % 2 and last_fence > place):
            continue
        if _is_in_sentence(inside, mark):
            in_doubt = in_doubt or (None if is_opening else mark)
            continue
        depth += 1 if is_opening else -1
        if depth == 0:
            # Models write it twice, too: then the answer stands between.
            return (in_doubt if in_doubt and _BLANK_REST.match(inside, mark.end()) else mark), True
        if not is_opening and (lowest is None or depth < lowest):
            lowest, outermost = depth, mark
    found = outermost or in_doubt
    return found or first, found is not None


def _is_quoted(text: str, mark: re.Match[str]) -> bool:
    before, after = text[max(mark.start() - 1, 0) : mark.start()], text[mark.end() : mark.end() + 1]
    return before in _QUOTES and after in _QUOTES


def _is_in_sentence(text: str, mark: re.Match[str]) -> bool:
    """As in "I end with </think> then"."""
    before = text[max(mark.start() - 1, 0) : mark.start()]
    return before in (" ", "\t") and _SENTENCE.match(text, mark.end()) is not None


def _lone_closing(content: str, marks: re.Pattern[str]) -> re.Match[str] | None:
    """The mark that ends reasoning which began in the prompt."""
    for mark in islice(marks.finditer(content), _MOST_PIECES):
        if _is_quoted(content, mark) or _is_in_sentence(content, mark):
            continue
        if mark[1] is not None:
            return None
        if _ends_reasoning(content, mark.start(), mark.end()):
            return mark
    return None


def _ends_reasoning(content: str, place: int, end: int) -> bool:
    """Whether the closing tag from `place` to `end` is one, and no word of the answer."""
    if content[:place].count(_FENCE) % 2 and _FENCE in content[place:]:
        return False  # in a block of code
    before = content[content.rfind("\n", 0, place) + 1 : place]
    line_end = content.find("\n", place)
    after = content[end : line_end if line_end >= 0 else len(content)]
    if not before.strip():
        return not after.strip()
    return before.endswith(_SENTENCE_ENDS) and (not after.strip() or after[0].isalnum())
