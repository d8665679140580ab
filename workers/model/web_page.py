"""Whether what a server sent is a web page: a wrong URL often leads to one. Pure."""

import html
import re

# An answer is JSON or a stream of events. Neither begins with `<`.
_PAGE = re.compile(rb"(?:<!--.*?-->\s*)*<(?:!doctype html|html|head|body)\b", re.IGNORECASE | re.DOTALL)
_TITLE = re.compile(rb"<title[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)
# How far into a body is looked, and how much of its title is shown.
LOOKED_AT_BYTES = 4096
MAX_TITLE_CHARACTERS = 80


def is_web_page(body: bytes, content_type: str = "") -> bool:
    """`body`: at least its beginning."""
    start = body[:LOOKED_AT_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n")
    return start[:1] == b"<" and ("html" in content_type.lower() or _PAGE.match(start) is not None)


def page_title(body: bytes) -> str:
    """The page's title on one line, in quotation marks and after a blank; nothing if it has none."""
    found = _TITLE.search(body[:LOOKED_AT_BYTES])
    words = " ".join(html.unescape(found[1].decode(errors="replace")).split()) if found else ""
    return f' "{words[:MAX_TITLE_CHARACTERS]}"' if words else ""
