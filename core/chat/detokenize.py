"""Token ids to text, one token at a time, in whole characters only.

A token may hold a part of a character: byte-level vocabularies cut UTF-8 anywhere, and a model may
write bytes that are no UTF-8 at all. Bytes that may still become a character are held back until the
next token; those that cannot are shown as U+FFFD, as Unicode advises (chapter 3.9, maximal subparts).

``tokenizers.DecodeStream`` (0.23) does not do: with a vocabulary of words and bytes it raises "Invalid prefix
encountered" at bytes that are no UTF-8, and it never gives what it holds back at an answer's end.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable
from typing import Any, Protocol

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_HELD = 3  # an unfinished character is at most three bytes


class Detokenizer(Protocol):
    """What turns an answer's tokens into text."""

    def add(self, token: int) -> str:
        """The characters that this token completes; may be empty."""

    def flush(self) -> str:
        """What was held back, at the end of an answer."""


def byte_alphabet() -> dict[str, int]:
    """The characters by which byte-level vocabularies write bytes (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = [byte for byte in range(256) if byte not in set(plain)]
    table = {chr(byte): byte for byte in plain}
    table.update({chr(256 + place): byte for place, byte in enumerate(shifted)})
    return table


class TokenBytes:
    """The bytes that each token stands for, worked out when first asked for."""

    def __init__(
        self, token_of: Callable[[int], str | None], added: dict[int, str], byte_level: bool
    ) -> None:
        self._token_of = token_of
        self._known: dict[int, bytes] = {number: text.encode() for number, text in added.items()}
        self._alphabet = byte_alphabet() if byte_level else None

    def __getitem__(self, number: int) -> bytes:
        found = self._known.get(number)
        if found is None:
            found = self._known[number] = self._find(self._token_of(number) or "")
        return found

    def _find(self, token: str) -> bytes:
        if self._alphabet is not None:
            if all(char in self._alphabet for char in token):
                return bytes(self._alphabet[char] for char in token)
            return token.encode("utf-8", "replace")
        match = _BYTE_TOKEN.fullmatch(token)
        return (
            bytes([int(match.group(1), 16)]) if match else token.replace("▁", " ").encode("utf-8", "replace")
        )


class ByteDetokenizer:
    """The text of an answer as its tokens come, for vocabularies whose tokens are bytes."""

    def __init__(self, table: TokenBytes, strip_first: bool) -> None:
        self._table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip = strip_first

    def add(self, token: int) -> str:
        """The characters that this token completes; may be empty."""
        text = self._decoder.decode(self._table[token])
        if self._strip and text:
            self._strip = False
            return text.removeprefix(" ")
        return text

    def flush(self) -> str:
        """What was held back, at the end of an answer."""
        return self._decoder.decode(b"", final=True)


class WindowDetokenizer:
    """The same for any tokenizer: decodes a short window of tokens again and shows what is new."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._context = 0  # tokens at the window's start that were shown whole
        self._shown = 0  # characters of the window that were shown

    def add(self, token: int) -> str:
        """The characters that this token completes; may be empty."""
        self._ids.append(token)
        text = self._decode(self._ids)
        tail = len(text) - len(text.rstrip("\ufffd"))
        return self._show(text, len(text) - min(tail, _HELD))

    def flush(self) -> str:
        """What was held back, at the end of an answer."""
        text = self._decode(self._ids)
        return self._show(text, len(text))

    def _show(self, text: str, until: int) -> str:
        piece = text[self._shown : until]
        self._shown = max(self._shown, until)
        if until == len(text) and len(self._ids) - self._context >= 8:
            # The last tokens stay as context: some decoders join neighbours.
            self._ids = self._ids[-4:]
            self._context = len(self._ids)
            self._shown = len(self._decode(self._ids))
        return piece


def table_for(tokenizer: Any) -> tuple[TokenBytes, bool] | None:
    """The byte table for a Hugging Face tokenizer and whether its text loses a first space.

    None where its decoder is of another kind.
    """
    spec = json.loads(tokenizer.to_str())
    decoder = spec.get("decoder") or {}
    added = {item["id"]: item["content"] for item in spec.get("added_tokens", ())}
    if decoder.get("type") == "ByteLevel":
        return TokenBytes(tokenizer.id_to_token, added, byte_level=True), False
    steps = [step.get("type") for step in decoder.get("decoders", ())]
    if decoder.get("type") == "Sequence" and steps[:3] == ["Replace", "ByteFallback", "Fuse"]:
        strip = len(steps) > 3 and steps[3] == "Strip" and decoder["decoders"][3].get("start") == 1
        plain = decoder["decoders"][0].get("pattern", {}).get("String") == "▁"
        if plain and (len(steps) == 3 or (strip and len(steps) == 4)):
            return TokenBytes(tokenizer.id_to_token, added, byte_level=False), strip
    return None


class Detokenizers:
    """Makes a detokenizer for each answer of one model."""

    def __init__(self, tokenizer: Any) -> None:
        """``tokenizer``: a ``tokenizers.Tokenizer``."""
        self._tokenizer = tokenizer
        self._table = table_for(tokenizer)

    def bytes_of(self, token: int) -> bytes:
        """What one token stands for, by itself."""
        if self._table is not None:
            return self._table[0][token]
        return str(self._tokenizer.decode([token], skip_special_tokens=False)).encode("utf-8", "replace")

    def new(self) -> Detokenizer:
        """A fresh one."""
        if self._table is not None:
            return ByteDetokenizer(*self._table)
        return WindowDetokenizer(lambda ids: str(self._tokenizer.decode(ids, skip_special_tokens=False)))
