"""Foreign text made harmless for a terminal.

Dataset rows, model output, logs, paths and exceptions may carry escape codes (ECMA-48), carriage
returns, or Unicode bidirectional controls that make a line read other than it is (CVE-2021-42574).
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

from core.language import changed

# Patterns are texts, which `re` compiles, once, when they are first used: most are not on the way to the first screen.
_ESCAPES = (
    r"(?s)\x1b\[[0-?]*[ -/]*[@-~]"  # CSI
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)"  # OSC, DCS, SOS, PM, APC up to their end
    r"|\x1b[ -/]*[0-~]"  # two-character escapes
    r"|\x9b[0-?]*[ -/]*[@-~]"  # CSI as one C1 byte
)
_CONTROLS = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]"
# Bytes of a path that are no UTF-8 come as lone surrogates.
_UNSAFE = _CONTROLS + r"|[\n\t\udc80-\udcff]"
_JSON_UNSAFE = _CONTROLS + r"|[\ud800-\udfff]"

_LONGEST_ESCAPE = 4096
# An escape sequence that has begun and not ended: what follows may belong to it.
_UNFINISHED = r"(?:\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)?|\x9b[0-?]*[ -/]*)\Z"

_LOGIN = r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s\"'<>]*@"

LONGEST_LINE = 2_000


def without_logins(text: str) -> str:
    """Text in which no address has a user name or password: ``https://***@host``."""
    return changed(text, lambda each: re.sub(_LOGIN, r"\1***@", each))


def first_line(error: BaseException) -> str:
    """What an error says, in its first line; the name of its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def command(*words: object) -> str:
    """``olivepress WORDS`` as a shell takes it."""
    return shell("olivepress", *words)


def shell(*words: object) -> str:
    """A command line as a shell takes it: each word is quoted where it needs to be.

    A word with a line break or another control character is written as ``$'…'``, which bash and zsh read.
    """
    return " ".join(_shell_word(str(word)) for word in words)


def _shell_word(word: str) -> str:
    if not re.search(_UNSAFE, word):
        return shlex.quote(word)
    named = {"\n": "\\n", "\t": "\\t", "\\": "\\\\", "'": "\\'"}

    def sign(each: str) -> str:
        if each in named or not re.match(_UNSAFE, each):
            return named.get(each, each)
        return "".join(f"\\x{byte:02x}" for byte in each.encode("utf-8", "surrogateescape"))

    return "$'" + "".join(map(sign, word)) + "'"


_HALVES = r"[\ud800-\udfff]"


def clean(text: str, *, keep_newlines: bool = True) -> str:
    """Text without escape codes, control characters and bidirectional overrides.

    Half of a surrogate pair, which no file takes, is written as in JSON; such is a path's byte that is no UTF-8.
    Tabs become four spaces. Newlines stay unless ``keep_newlines`` is false, then they become spaces.
    """
    if text.isprintable():  # most is, and needs none of the patterns
        return text
    text = re.sub(_ESCAPES, "", text.replace("\r\n", "\n"))
    text = re.sub(_HALVES, lambda half: f"\\u{ord(half[0]):04x}", re.sub(_CONTROLS, "", text)).expandtabs(4)
    return text if keep_newlines else text.replace("\n", " ")


class StreamCleaner:
    """:func:`clean` for text that comes in pieces: an escape code cut in two is still taken out."""

    def __init__(self) -> None:
        self._held = ""

    def add(self, piece: str) -> str:
        """What of the text so far may be shown."""
        text = self._held + piece
        match = re.search(_UNFINISHED, text)
        if match and len(match.group()) <= _LONGEST_ESCAPE:
            self._held = text[match.start() :]
            text = text[: match.start()]
        else:
            self._held = ""
        return clean(text)

    def flush(self) -> str:
        """The rest, at the end of an answer."""
        text, self._held = self._held, ""
        return clean(text)


# What is no part of text: controls but tab and line feed, controls of the reading direction that override it,
# halves of surrogate pairs (bytes that are no UTF-8). Direction marks belong to good text in Arabic script.
_ODD = r"([\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff])"
_MARKS = r"[\u061c\u200e\u200f]"


def told_apart(text: str) -> Iterator[tuple[str, bool]]:
    r"""Foreign text in pieces, all of it harmless: text as it is, and what stands for a control character (True).

    Nothing is hidden: a control character is written as its escape, ``\x1b``. Tabs become four spaces.
    """
    text = re.sub(_MARKS, "", text.replace("\r\n", "\n")).expandtabs(4)
    for number, piece in enumerate(re.split(_ODD, text)):
        if piece:
            yield (_escape(piece), True) if number % 2 else (piece, False)


def visible(text: str, *, on_one_line: bool = False) -> str:
    """Foreign text with each control character written as its escape: seen, and harmless.

    Args:
        on_one_line: tabs and line breaks as well.
    """
    if on_one_line:
        text = "".join(_escape(each) if each in "\r\n\t" else each for each in text)
    return "".join(piece for piece, _ in told_apart(text))


def _escape(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte, as Python reads it where it is no UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape", "surrogatepass").decode()


def json_line(data: Any) -> str:
    """Data as JSON on one line, whose texts come back as they are and do nothing to a terminal."""
    return re.sub(_JSON_UNSAFE, lambda sign: f"\\u{ord(sign[0]):04x}", json.dumps(data, ensure_ascii=False))


def masked(text: str, mask: str) -> str:
    """Text with ``mask``, one character, in place of each control character: its places stay the same."""
    return re.sub(_CONTROLS, mask, text).replace("\n", mask)


def clean_line(line: str, longest: int = LONGEST_LINE) -> str:
    """A log line as a terminal would have left it: what follows the last carriage return, cleaned and cut."""
    line = line.rstrip("\r\n")
    line = clean(line.rsplit("\r", 1)[-1], keep_newlines=False)
    return line if len(line) <= longest else line[: longest - 1] + "…"
