"""Is the graph right in long texts too? The short prompts of the trial end before a sliding window begins.

One text is read in pieces by both, ONNX Runtime and PyTorch, each with its cache, and the logits are compared at
some places: early, right before and behind every window, and at the end. Memory is bounded by the pieces and the
caches, and time by a budget: what of the text was read is told, for a large model on a CPU cannot read all of it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import StageError, Use
from core.events import Reporter
from core.language import told
from core.model.folder import ModelFacts
from core.model.tokenizer import ModelTokenizer
from core.optimize.session import OnnxSession

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

TOKENS = 4096
"""Length of the text, where the model's context is no shorter and its windows are no longer."""
BEHIND = 64
"""Tokens that are read behind the longest window."""
BUDGET_S, WINDOW_BUDGET_S = 90.0, 300.0
"""Seconds that the reading may take, and that it may take until the first window is behind it."""
PIECE_BYTES = 2**28
"""What the logits of one piece may take."""
APART = {"exact": 0.02, "rounded": 0.2}
"""How far the logits may be apart (root mean square, in standard deviations of PyTorch's): where both compute with
float32 activations, and where the runtime computes with 16 bits."""


@dataclass(frozen=True)
class Reading:
    """What was compared.

    Attributes:
        tokens: how much of the text both have read.
        wanted: how long the text is.
        window: the shortest window that takes effect within the model's context, 0 if none does.
        apart: the largest difference of the logits, as in :data:`APART`.
        places: how many tokens the logits were compared at.
    """

    tokens: int
    wanted: int
    window: int
    apart: float
    places: int

    def summary(self) -> dict[str, Any]:
        """In numbers for the stage's result."""
        return {
            "verified_tokens": self.tokens,
            "window": self.window or None,
            "long_text_gap": round(self.apart, 6),
        }

    def told(self) -> str:
        """In words."""
        said = told(
            "In a text of {tokens:,} tokens the graph's logits are PyTorch's at {places} places (at "
            "most {apart:.2g} of their spread apart)",
            tokens=self.tokens,
            places=self.places,
            apart=self.apart,
        )
        if not self.window:
            return told("{said}.", said=said)
        if self.tokens > self.window:
            return told("{said}, behind the window of {window:,} tokens too.", said=said, window=self.window)
        return told(
            "{said}. The window of {window:,} tokens was not reached in the time there is.",
            said=said,
            window=self.window,
        )


def windows_in(facts: ModelFacts, context: int) -> list[int]:
    """The model's windows that are shorter than a context, the shortest first."""
    return sorted({size for size in facts.windows if 0 < size < context})


def places_in(tokens: int, windows: Sequence[int]) -> list[int]:
    """The places in a text where the logits are compared: indices of tokens, in order.

    The token at index ``w`` is the first that a window of ``w`` keeps from seeing the whole text.
    """
    found = {min(16, tokens - 1), tokens // 2, tokens - 1}
    for window in windows:
        found |= {window - 1, window, window + 1, window + BEHIND // 2, window + BEHIND - 1}
    return sorted(place for place in found if 0 <= place < tokens)


def verify_long_text(
    graph: OnnxSession,
    checkpoint: Path,
    *,
    facts: ModelFacts,
    context: int,
    exact: bool,
    trust_remote_code: bool,
    report: Reporter,
    model: PreTrainedModel | None = None,
) -> Reading:
    """Compare a graph with its PyTorch model in a long text.

    Args:
        graph: where its kernels round activations to int8, the exact copy of it.
        context: the longest text that the graph is for.
        exact: whether the graph computes with float32 activations.
        model: the PyTorch model, where it is loaded already.

    Raises:
        StageError: the logits are not PyTorch's.
    """
    import torch

    from core.olive.checkpoint import load_reference

    windows = windows_in(facts, context)
    tokens = min(context, max([TOKENS, *(size + BEHIND for size in windows)]))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokens = min(tokens, _affordable(facts, device))
    ids = _text(ModelTokenizer.read(checkpoint, (), trust_remote_code), facts.vocab_size, tokens)
    piece = max(16, min(512, PIECE_BYTES // (4 * facts.vocab_size)))
    pieces = [ids[start : start + piece] for start in range(0, tokens, piece)]
    places = places_in(tokens, windows)
    inside = [[p - start for p in places if start <= p < start + piece] for start in range(0, tokens, piece)]
    report.progress(told("Reading a long text"), 0, tokens)
    model = model or load_reference(checkpoint, report, trust_remote_code)
    found = graph.read(pieces, tokens)
    expected = _read(model, pieces, inside)
    limit = APART["exact" if exact else "rounded"]
    began, read, worst, compared = time.perf_counter(), 0, 0.0, 0
    for ours, theirs, rows in zip(found, expected, inside, strict=True):
        report.check_cancelled()
        apart = _apart(torch.from_numpy(ours[rows]), theirs) if rows else []
        for row, value in zip(rows, apart, strict=True):
            if not value <= limit:
                raise _wrong(read + row, value, limit, windows)
        worst, compared = max([worst, *apart]), compared + len(rows)
        read += len(ours)
        report.progress(told("Reading a long text"), read, tokens)
        # The next piece takes as long as this one, and somewhat longer.
        spent = time.perf_counter() - began
        behind = not windows or read > windows[0] + 1
        if spent * (1 + piece / read) > (BUDGET_S if behind else WINDOW_BUDGET_S):
            break
    return Reading(read, tokens, windows[0] if windows else 0, worst, compared)


def _affordable(facts: ModelFacts, device: str) -> int:
    """Tokens whose keys and values, twice in float32, take no more than a quarter of the free memory."""
    import psutil
    import torch

    free = torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available
    size = facts.head_dim or facts.hidden_size // max(facts.heads, 1)
    token = 2 * 2 * 4 * facts.layers * facts.kv_heads * size
    return max(64, int(free / 4 / max(token, 1)))


def _text(tokenizer: ModelTokenizer, vocab_size: int, tokens: int) -> list[int]:
    """Ids of plain tokens in random order, always the same ones, behind the start token where there is one."""
    known = min(vocab_size, tokenizer.tokenizer.get_vocab_size())
    plain = sorted(set(range(known)) - set(tokenizer.numbers.values()))
    return [*tokenizer.start, *random.Random(0).choices(plain or range(known), k=tokens)][:tokens]


def _read(
    model: PreTrainedModel, pieces: Sequence[Sequence[int]], inside: Sequence[Sequence[int]]
) -> Iterator[torch.Tensor]:
    """PyTorch's logits at some places of each piece; float32 [places, vocabulary] on the CPU."""
    import torch

    device = next(model.parameters()).device
    cache: Any = None
    for piece, rows in zip(pieces, inside, strict=True):
        with torch.inference_mode():
            made = model(
                input_ids=torch.tensor([list(piece)], device=device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=torch.tensor(rows or [len(piece) - 1], device=device),
            )
        cache = made.past_key_values
        yield made.logits[0].float().cpu()


def _apart(ours: torch.Tensor, theirs: torch.Tensor) -> list[float]:
    """Root mean square of the differences in each row, in standard deviations; not finite is infinitely far."""
    values: list[float] = ((ours.float() - theirs).square().mean(1).sqrt() / theirs.std(1)).tolist()
    return [value if value == value else float("inf") for value in values]


def _wrong(place: int, apart: float, limit: float, windows: Sequence[int]) -> StageError:
    passed = [size for size in windows if place >= size]
    where = told(", behind the window of {passed:,} tokens", passed=passed[-1]) if passed else ""
    return StageError(
        told("The ONNX model goes wrong in a long text."),
        told(
            "At token {place:,}{where}, its logits are {apart:.0%} of their spread from PyTorch's, "
            "where rounding explains {limit:.0%}.",
            place=place + 1,
            where=where,
            apart=apart,
            limit=limit,
        ),
        told(
            "Nothing was published. Choose another model, or {precision}.",
            precision=Use("optimize.precision", "fp32"),
        ),
        code="optimize.verify",
    )
