"""One conversation in the model's memory: a generator, what it has read, and how much of that can be kept.

Only for the worker process. A cache belongs to one adapter (or none): keys and values computed under one
adapter are wrong under another, so each has its own cache and a switch reads the conversation anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from core.chat.sampler import Sampler
from core.errors import MachineError
from core.formats import human_bytes
from core.language import told
from core.model.messages import Segment, after, text_of
from core.model.tokenizer import ModelTokenizer

WORDS_BETWEEN = "\0"
"""Stands between the texts of a conversation in :attr:`KVCache.words`."""

READ_CHUNK = 512
"""Tokens read at once. Between chunks reading can be stopped, and tells how far it is."""


def common_prefix(left: Sequence[Any], right: Sequence[Any]) -> int:
    """How many items two sequences share from the start."""
    low, high = 0, min(len(left), len(right))
    while low < high:  # slices are compared without Python's steps
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


SMALLEST = 64
"""Tokens of a context below which there is no conversation."""


class KVCache:
    """The cache of one conversation with one adapter.

    Attributes:
        adapter: its name, or "" for the base.
        words: the texts of the conversation, joined, by which it is found again.
    """

    def __init__(self, runtime: Any, model: Any, adapters: Any, adapter: str, context_tokens: int) -> None:
        """Make it.

        Args:
            runtime: onnxruntime_genai.
            adapters: its ``Adapters``, with ``adapter`` loaded; None where it is merged into ``model``.
        """
        self._runtime = runtime
        self._model = model
        self._adapters = adapters
        self.adapter = adapter
        self.words = ""
        self._context = context_tokens
        self._generator = self._new()
        self.ids: list[int] = []
        # Tokens of ids whose keys and values are computed: the token chosen last is only read when
        # the next is asked for.
        self._computed = 0
        self._text = ""
        # Places where text and ids correspond: (characters, tokens).
        self._marks: list[tuple[int, int]] = []

    def _new(self) -> Any:
        params = self._runtime.GeneratorParams(self._model)
        params.set_search_options(max_length=self._context, do_sample=False, num_beams=1)
        generator = self._runtime.Generator(self._model, params)
        if self.adapter and self._adapters is not None:
            generator.set_active_adapter(self._adapters, self.adapter)
        return generator

    def warm(self) -> None:
        """Run the model once, so that the first question does not pay for buffers and pages of weights."""
        self.append([0])
        self.rewind(0)

    def encode(self, segments: Sequence[Segment], tokens: ModelTokenizer) -> list[int]:
        """The ids of a written conversation, with the very ids that were generated where it continues one.

        An answer encoded again may give other ids than the model chose, and the cache would be lost from
        there on. So the text is cut where a kept answer ends; the template puts a special token there, and
        tokenizers cut at special tokens too, so both parts encode as the whole does.
        """
        text = text_of(segments)
        for characters, count in reversed(self._marks):
            if text[:characters] == self._text[:characters]:
                if not text[characters:]:
                    return self.ids[:count]
                if tokens.starts_special(text[characters:]):
                    rest = tokens.encode(after(segments, characters), before=text[:characters])
                    return self.ids[:count] + rest.ids
        return tokens.encode(segments).ids

    def read(self, text: str, ids: list[int]) -> Iterator[tuple[int, int]]:
        """Bring the cache to ``ids``; yields (tokens read, tokens to read) after each chunk.

        At least the last token is read, since its logits choose the answer's first.
        """
        common = common_prefix(self.ids, ids)
        marks = [m for m in self._marks if m[1] <= common and text[: m[0]] == self._text[: m[0]]]
        kept = self.rewind(min(common, len(ids) - 1, self._computed))
        total = len(ids) - kept
        done = 0
        while done < total:
            chunk = ids[kept + done : kept + min(done + READ_CHUNK, total)]
            self._generator.append_tokens(np.array(chunk, dtype=np.int32))
            self.ids += chunk
            self._computed = len(self.ids)
            done += len(chunk)
            yield done, total
        self._text = text
        self._marks = [*(mark for mark in marks if mark[1] < len(ids)), (len(text), len(ids))]

    def rewind(self, kept: int) -> int:
        """Go back to the first ``kept`` tokens; returns how many there are then."""
        if self.ids:
            try:
                self._generator.rewind_to(kept)
            except RuntimeError:
                # Some caches (sliding windows, recurrent states) cannot go back: start over.
                self._generator = self._new()
                kept = 0
        self.ids = self.ids[:kept]
        self._computed = kept
        self._text, self._marks = "", []
        return kept

    def choose(self, sampler: Sampler, look: Callable[[Any, int], None] | None = None) -> int:
        """The next token; :meth:`accept` makes it part of the conversation.

        Args:
            look: is shown the logits of this place, and the choice.
        """
        if sampler.plain and look is None:
            self._generator.generate_next_token()
            self._computed = len(self.ids)
            return int(self._generator.get_next_tokens()[0])
        if self._computed < len(self.ids):
            self._generator.append_tokens(np.array(self.ids[self._computed :], dtype=np.int32))
            self._computed = len(self.ids)
        logits = self._generator.get_logits()
        token = sampler.choose(logits, self.ids)
        if look is not None:
            look(logits, token)
        return token

    def accept(self, token: int) -> None:
        """Make the chosen token part of the conversation. It is computed when the next one is asked for."""
        self.ids.append(token)

    def answered(self, answer: str) -> None:
        """Remember where the answer ended, so that the next turn continues from its ids."""
        self.words += WORDS_BETWEEN + answer
        if not self._marks:
            return  # reading was stopped in the middle: there is no text to go on from
        self._text += answer
        self._marks.append((len(self._text), len(self.ids)))

    def logits(self) -> Any:
        """Logits of the positions appended last, shape (positions or 1, vocabulary), float32."""
        found = np.asarray(self._generator.get_output("logits"))
        return found.reshape(-1, found.shape[-1]).astype(np.float32)

    def append(self, ids: list[int]) -> None:
        """Append tokens without any bookkeeping of text (for scoring)."""
        self._generator.append_tokens(np.array(ids, dtype=np.int32))
        self.ids += ids
        self._computed = len(self.ids)


def cache_bytes_per_token(config: dict[str, Any]) -> int:
    """Bytes that one token takes in the cache, from ``genai_config.json``.

    Two tensors (keys, values) a layer, of key-value heads times head size, four bytes each: the
    runtime's CPU caches are float32, others are at most that.
    """
    decoder = config.get("model", {}).get("decoder", {})
    sizes = [decoder.get(name, 0) for name in ("num_hidden_layers", "num_key_value_heads", "head_size")]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        return 0
    return int(2 * 4 * sizes[0] * sizes[1] * sizes[2])


def caches_that_fit(config: dict[str, Any], context: int, memory: int) -> int:
    """How many caches of ``context`` tokens fit in so many bytes, and in half of what is free; at least one."""
    each = cache_bytes_per_token(config) * context
    if not each:
        return 1
    import psutil

    return int(max(1, min(memory, psutil.virtual_memory().available // 2) // each))


def context_that_fits(
    config: dict[str, Any], wanted: int, caches: int, free: int | None = None
) -> tuple[int, str]:
    """The longest context, up to ``wanted`` tokens, of which ``caches`` caches fit in half of the free memory.

    Args:
        free: bytes; asked of the system if None.

    Returns:
        the tokens, and a sentence for the user if they are fewer than wanted (else empty).

    Raises:
        MachineError: there is no room for a conversation at all.
    """
    each = cache_bytes_per_token(config)
    if not each:
        return wanted, ""
    if free is None:
        import psutil

        free = int(psutil.virtual_memory().available)
    fits = free // 2 // (each * caches)
    if fits >= wanted:
        return wanted, ""
    if fits < SMALLEST:
        raise MachineError(
            told("There is too little memory for a conversation."),
            told(
                "{free} are free, and each token takes {each}.",
                free=human_bytes(free),
                each=human_bytes(each * caches),
            ),
            told("Close other programs, or use a smaller model."),
            code="machine.memory",
        )
    return int(fits), told(
        "Memory allows a context of {fits} tokens, not {wanted}: {free} are free.",
        fits=int(fits),
        wanted=wanted,
        free=human_bytes(free),
    )
