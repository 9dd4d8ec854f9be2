"""A model's tokenizer: text to token ids, with what is data kept data, and where answers are learnt.

The file ``tokenizer.json`` is read by the ``tokenizers`` library itself, in training as in the chat. How
a row is cut into pieces does not depend on what follows, so that the ids of a question are the first ids of
every row that goes on from it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from core.errors import RequestError
from core.files import small_bytes
from core.language import told
from core.model.messages import Segment
from core.model.text import special_tokens

END_WITHIN = 3
"""An end token within the last so many tokens of an answer ends it: templates may put a line break behind."""


@dataclass(frozen=True)
class Encoded:
    """Token ids; ``learnt[i]`` says whether ``ids[i]`` is to be predicted."""

    ids: list[int]
    learnt: list[bool]


class ModelTokenizer:
    """Text to ids as one model reads it.

    Attributes:
        special: the tokens that mean more than their letters, longest first.
        numbers: ids of all added tokens by their text.
        ends: ids that end an answer; the first is put behind answers whose template writes no end.
    """

    def __init__(self, tokenizer: Any, ends: Sequence[int | str] = ()) -> None:
        """``tokenizer``: a ``tokenizers.Tokenizer``; ``ends``: ids or texts of the tokens that end an answer."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self.numbers: dict[str, int] = {
            item.content: number for number, item in added.items() if item.content
        }
        # A configuration may name ids that the tokenizer has not: nothing is ever written with them.
        known = (tokenizer.id_to_token(each) if isinstance(each, int) else each for each in ends)
        numbers = (tokenizer.token_to_id(each) for each in known if each is not None)
        self.ends = tuple(dict.fromkeys(each for each in numbers if each is not None))
        self.special = special_tokens((item.content, item.special) for item in added.values())
        self._numbers_of_special = {self.numbers[token] for token in self.special}
        names = sorted(self.numbers, key=len, reverse=True)
        self._starts = re.compile("|".join(map(re.escape, names)) or r"(?!)")
        self._tail = re.compile(f"(?:{self._starts.pattern})\\s*\\Z")

    @classmethod
    def read(
        cls, folder: Path, ends: Sequence[int | str] = (), trust_remote_code: bool = False
    ) -> ModelTokenizer:
        """The tokenizer of a model's folder.

        Folders without ``tokenizer.json`` need transformers to convert what they have: not for the user
        interface's process.

        Raises:
            RequestError: there is none, or it is damaged.
        """
        file = folder / "tokenizer.json"
        if not file.is_file():
            from core.model.load import load_tokenizer

            backend = getattr(load_tokenizer(folder, trust_remote_code), "backend_tokenizer", None)
            if backend is None:
                raise RequestError(
                    told("The tokenizer is of a kind that cannot be used."),
                    told(
                        "{folder} has no tokenizer.json, and none can be made of what it has.", folder=folder
                    ),
                    told("Use a copy of the model that has tokenizer.json."),
                    code="model.tokenizer",
                )
            return cls(backend, ends)
        from tokenizers import Tokenizer

        try:
            return cls(Tokenizer.from_buffer(small_bytes(file)), ends)
        except Exception as error:  # the library raises plain Exception for whatever is wrong with the file
            raise RequestError(
                told("The model's tokenizer cannot be read."),
                told("{file}: {error}.", file=file, error=error),
                told("Fetch the model again."),
                code="model.tokenizer",
            ) from None

    def _encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        found = self.tokenizer.encode(_clean(text), add_special_tokens=False)
        return found.ids, found.offsets

    @cached_property
    def start(self) -> tuple[int, ...]:
        """The ids that the tokenizer itself puts before every text."""
        whole = list(self.tokenizer.encode("a").ids)
        bare, _ = self._encode("a")
        for place in range(len(whole) - len(bare) + 1):
            if whole[place : place + len(bare)] == bare:
                return tuple(whole[:place])
        return ()

    @cached_property
    def _prefixes(self) -> bool:
        """Whether a text by itself gets a first space that it has not in the middle of another."""
        newline, _ = self._encode("\n")
        return self._encode("\na")[0] != newline + self._encode("a")[0]

    def _pieces(self, segments: Sequence[Segment]) -> Iterator[tuple[str, list[tuple[int, bool]]]]:
        """The texts that are encoded by themselves, each with (length, learnt) of its parts.

        A piece begins where an answer begins, and where a lookalike of a special token is cut.
        """
        piece, parts = "", list[tuple[int, bool]]()
        for segment in segments:
            if segment.trained and piece:
                yield piece, parts
                piece, parts = "", []
            at = 0
            for cut in segment.cuts:
                piece += segment.text[at:cut]
                parts.append((cut - at, segment.trained))
                if piece:
                    yield piece, parts
                piece, parts, at = "", [], cut
            piece += segment.text[at:]
            parts.append((len(segment.text) - at, segment.trained))
        if piece:
            yield piece, parts

    def _after(self, before: str, piece: str) -> tuple[list[int], list[int]]:
        """Ids of a piece in its place behind other text, and where in the piece each begins."""
        tail = self._tail.search(before[-256:])
        anchor = tail.group() if tail else "\n" if self._prefixes and before else ""
        ids, offsets = self._encode(anchor + piece)
        if not anchor:
            return ids, [start for start, _ in offsets]
        size = len(anchor)
        across = [
            number
            for number, (start, stop) in zip(ids, offsets, strict=True)
            if start < size < stop and number not in self._numbers_of_special
        ]
        if across:
            ids, offsets = self._encode(piece)
            return ids, [start for start, _ in offsets]
        kept = [place for place, (start, stop) in enumerate(offsets) if start >= size and stop > size]
        return [ids[place] for place in kept], [offsets[place][0] - size for place in kept]

    def encode(self, segments: Sequence[Segment], before: str = "") -> Encoded:
        """The ids of the segments' text, and which are learnt.

        A start token that the tokenizer puts before texts is there once, whether the text has it or not.

        Args:
            before: text that was encoded already, and that these segments follow; then no start is put.
        """
        ids: list[int] = []
        learnt: list[bool] = []
        first = not before
        for piece, parts in self._pieces(segments):
            found, starts = self._after(before, piece)
            if first and self.start and tuple(found[: len(self.start)]) != self.start:
                ids += self.start
                learnt += [False] * len(self.start)
            first = False
            bound, part = parts[0][0], 0
            for number, start in zip(found, starts, strict=True):
                while start >= bound and part < len(parts) - 1:
                    part += 1
                    bound += parts[part][0]
                ids.append(number)
                learnt.append(parts[part][1])
            before += piece
        return Encoded(ids, learnt)

    def encode_row(self, segments: Sequence[Segment]) -> Encoded:
        """As :meth:`encode`, for a whole row: an answer that ends it is ended by one of :attr:`ends`."""
        row = self.encode(segments)
        if self._lacks_end(
            segments, [number for number, kept in zip(row.ids, row.learnt, strict=True) if kept]
        ):
            row.ids.append(self.ends[0])
            row.learnt.append(True)
        return row

    def _lacks_end(self, segments: Sequence[Segment], ids: Sequence[int]) -> bool:
        """Whether the text, whose last answer has these ids, ends with an answer that nothing ends."""
        last = next((segment for segment in reversed(segments) if segment.text.strip()), None)
        if last is None or not last.trained or not self.ends or not ids:
            return False
        ended = self._numbers_of_special.union(self.ends)
        return not any(number in ended for number in ids[-END_WITHIN:])

    def lengths(self, rows: Sequence[Sequence[Segment]]) -> list[int]:
        """How many tokens :meth:`encode_row` makes of each row; quick for many where the tokenizer allows."""
        if self._prefixes or any(
            item.lstrip or item.rstrip for item in self.tokenizer.get_added_tokens_decoder().values()
        ):
            return [len(self.encode_row(row).ids) for row in rows]
        pieces = [[piece for piece, _ in self._pieces(row)] for row in rows]
        texts = [_clean(piece) for row in pieces for piece in row]
        found = iter(self.tokenizer.encode_batch_fast(texts, add_special_tokens=False))
        counts = []
        for row, parts in zip(rows, pieces, strict=True):
            ids = [next(found).ids for _ in parts]
            count = sum(map(len, ids))
            if self.start and ids and tuple(ids[0][: len(self.start)]) != self.start:
                count += len(self.start)
            counts.append(count + self._lacks_end(row, ids[-1] if ids else []))
        return counts

    def starts_special(self, text: str) -> str | None:
        """The added token with which a text starts, if it does. There a text can be cut before encoding."""
        match = self._starts.match(text)
        return match.group() if match else None

    def spec(self) -> dict[str, Any]:
        """The contents of ``tokenizer.json``."""
        found: dict[str, Any] = json.loads(self.tokenizer.to_str())
        return found


def _clean(text: str) -> str:
    """The text without lone surrogates, which have no bytes; as long as before."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
