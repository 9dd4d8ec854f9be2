"""Opening what the quantize stage made, using it, and measuring it against the float model."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import torch

from core.errors import RequestError, StageError, Use
from core.events import Reporter
from core.language import told
from core.model.folder import ModelFacts, model_facts
from core.model.load import load_tokenizer
from core.olive.checkpoint import load_model
from core.quantize.layerwise import UnknownNames, streamed_logits
from core.quantize.quality import Quality, affordable, compare, of_model, reference, within_budget
from core.stage_context import StageContext
from core.tqdm_progress import reporting


def verify(
    context: StageContext,
    source: Path,
    made: Path,
    rows: Sequence[Sequence[int]],
    held_out: Sequence[Sequence[int]],
    expected: Sequence[torch.Tensor] | None = None,
) -> Quality:
    """Open what was made, use it, and measure it against the float model.

    Args:
        expected: what the float model makes of :func:`measured_rows`, where it was asked already.

    Raises:
        StageError: it does not load, gives logits that are not finite, or is unlike the float model.
    """
    report, trust = context.report, context.recipe.model.trust_remote_code
    device = running_device()
    measured = measured_rows(model_facts(source), rows, held_out)
    with reporting(report):
        try:
            load_tokenizer(made, trust)
            torch.cuda.empty_cache()  # what the pass left in the allocator; does nothing without a GPU
            if expected is None:
                expected = float_logits(source, measured, report, device, trust)
            torch.cuda.empty_cache()
            model = load_model(made, device=device, dtype=measuring_dtype(device), trust_remote_code=trust)
            with torch.inference_mode():
                prompt = torch.tensor([list(rows[0])], device=device)
                finite = bool(torch.isfinite(model(prompt, use_cache=False).logits).all())
        except RequestError as error:
            raise StageError(
                told("The quantized model cannot be opened."),
                error.detail or error.title,
                code="quantize.verify",
            ) from error
        if not finite:
            raise StageError(
                told("The quantized model gives numbers that are not finite."),
                told("On the first calibration row of {count} tokens.", count=len(rows[0])),
                told(
                    "Use a smaller {setting} or another {setting2}.",
                    setting=Use("quantize.group_size"),
                    setting2=Use("quantize.algorithm"),
                ),
                code="quantize.verify",
            )
        quality = compare(expected, of_model(model), measured, report)
    if not quality.similarity > 0.2:
        raise StageError(
            told("The quantized model has nothing in common with the float one."),
            told(
                "Its logits agree with a cosine of {similarity:.2f} on {tokens} tokens.",
                similarity=quality.similarity,
                tokens=quality.tokens,
            ),
            told(
                "Use a smaller {setting} or another {setting2}.",
                setting=Use("quantize.group_size"),
                setting2=Use("quantize.algorithm"),
            ),
            code="quantize.verify",
        )
    return quality


def measured_rows(
    facts: ModelFacts, rows: Sequence[Sequence[int]], held_out: Sequence[Sequence[int]]
) -> list[list[int]]:
    """The rows that a quantized model is measured on: held-out ones, or a little of the others where there are none."""
    measured = within_budget(held_out, facts.vocab_size, tokens=affordable(facts, running_device()))
    return measured or within_budget(rows, facts.vocab_size, tokens=64)


def running_device() -> str:
    """Where models are measured."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def float_logits(
    source: Path, rows: Sequence[Sequence[int]], report: Reporter, device: str, trust: bool
) -> list[torch.Tensor]:
    """The float model's log-probabilities, one layer in memory at a time where its files allow it."""
    dtype = measuring_dtype(device)
    if not trust and list(source.glob("*.safetensors")):
        with contextlib.suppress(UnknownNames):
            return [
                logits.log_softmax(-1)
                for logits in streamed_logits(source, rows, device, report, dtype=dtype)
            ]
    model = load_model(source, device=device, dtype=dtype, trust_remote_code=trust)
    return reference(of_model(model), rows, report)


def measuring_dtype(device: str) -> torch.dtype | None:
    """float32 on a CPU, where 16-bit numbers are slow and their noise would be measured too."""
    return torch.float32 if device == "cpu" else None
