"""What a stage made, in words: the same on screen, in the report and on the command line.

The keys of a result are for programs (``--json``, ``olivepress.json``); here stands what people read of
them. Lists, such as the curve of the loss, are drawn and not told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from core.formats import duration, human_bytes, number
from core.text import clean


@dataclass(frozen=True)
class Figure:
    """A line of a result.

    Attributes:
        key: where the value stands, with dots into what is nested; ``one|two`` puts two into the line.
        label: what people call it.
        main: whether it is of the few that the stage's screen shows.
        show: how its number is written.
        between: what stands between two values.
        zero: whether a value of 0 or an empty one is told.
    """

    key: str
    label: str
    main: bool = False
    show: Callable[[float], str] = number
    between: str = " to "
    zero: bool = True

    def text(self, result: Mapping[str, Any]) -> str:
        """The value in words; empty where the result lacks it."""
        values = [_at(result, part) for part in self.key.split("|")]
        if any(value is None for value in values) or not (self.zero or all(values)):
            return ""
        return self.between.join(self._word(value) for value in values)

    def _word(self, value: Any) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, int | float):
            return self.show(value)
        return clean(str(value), keep_newlines=False)


def _at(result: Mapping[str, Any], key: str) -> Any:
    found: Any = result
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _milliseconds(value: float) -> str:
    return f"{number(round(1000 * value))} ms"


def _gib(value: float) -> str:
    return human_bytes(value * 2**30)


def _exact_seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 10 else duration(value)


def _agreement(who: str, name: str) -> tuple[Figure, ...]:
    before = f"agreement.{who}."
    return (
        Figure(
            f"{before}agreeing|{before}tokens", f"Tokens as PyTorch's, {name}", who == "base", between=" of "
        ),
        Figure(f"{before}identical|{before}prompts", f"Whole answers as PyTorch's, {name}", between=" of "),
        Figure(f"{before}near_ties", f"Answers apart at a near tie, {name}", zero=False),
        Figure(f"{before}by_rounding", f"Answers apart by int8 rounding, {name}", zero=False),
        Figure(f"{before}largest_gap", f"Largest gap where they differ, {name}"),
    )


FIGURES: Mapping[str, tuple[Figure, ...]] = {
    "quantize": (
        Figure("algorithm", "Algorithm", main=True),
        Figure("bits", "Bits", main=True),
        Figure("group_size", "Group size", main=True),
        Figure("parameters", "Parameters"),
        Figure("bytes_before|bytes_after", "Size", show=human_bytes),
        Figure("perplexity_float|perplexity", "Perplexity", main=True),
        Figure("same_likeliest_token", "Same next word", main=True, show=_percent),
        Figure("kl_to_float", "Divergence from the float model"),
        Figure("measured_tokens", "Measured on tokens"),
        Figure("calibration_rows", "Records looked at", main=True),
        Figure("calibration_tokens", "Tokens looked at"),
        Figure("seconds", "Quantizing took", show=duration),
        Figure("folds", "Scales folded into layers"),
        Figure("search_error_ratio", "Error, of that of plain rounding", show=_percent),
        Figure("mean_exponent", "Mean exponent of the scales"),
    ),
    "finetune": (
        Figure("adapter", "Adapter"),
        Figure("eval_loss_base|eval_loss_tuned", "Held-out loss", main=True),
        Figure("loss_first|loss_last", "Training loss"),
        Figure("steps", "Steps", main=True),
        Figure("resumed_from", "Went on from step", main=True, zero=False),
        Figure("seconds_per_step", "A step took", main=True, show=_exact_seconds),
        Figure("tokens_per_s", "Tokens/s", main=True),
        Figure("training_s", "Training took", show=duration),
        Figure("loading_s", "Loading took", show=duration),
        Figure("train_rows", "Records", main=True),
        Figure("eval_rows", "Records held out"),
        Figure("train_tokens", "Tokens in the records"),
        Figure("longest_row_tokens", "Longest record, in tokens"),
        Figure("truncated_rows", "Records cut"),
        Figure("dropped_rows", "Records left out"),
        Figure("rank", "Rank"),
        Figure("alpha", "Alpha"),
        Figure("adapter_parameters", "Adapter weights", main=True),
        Figure("adapter_matrices", "Matrices with an adapter"),
        Figure("bytes", "Size", show=human_bytes),
        Figure("logit_change", "Change of the logits"),
        Figure("device", "Trained on"),
        Figure("dtype", "Computed in"),
        Figure("memory", "Use of memory"),
        Figure("memory_reason", "Reason for it"),
        Figure("recomputed_layers", "Layers computed twice"),
        Figure("gpu_peak_gib", "GPU memory at most", show=_gib),
    ),
    "optimize": (
        Figure("provider", "Provider", main=True),
        Figure("precision", "Precision", main=True),
        Figure("device", "Device"),
        Figure("adapter", "Adapter", main=True),
        Figure("float16_bytes", "Size in 16 bits", show=human_bytes),
        Figure("quantized_bytes", "Size quantized", show=human_bytes),
        Figure("base_bytes", "Size as ONNX", show=human_bytes),
        Figure("adapter_bytes", "Size of the adapter", show=human_bytes, zero=False),
        Figure("context", "Context, in tokens"),
        Figure("accuracy_level", "Accuracy level of the int4 kernels"),
        Figure("output_matrix", "Output matrix"),
        Figure("base_reused", "Base as it was"),
        Figure("build_s", "Building took", show=duration),
        Figure("verified", "Tried here", main=True),
        Figure("why_not_verified", "Why not"),
        Figure("training_prompts", "Questions asked again", main=True),
        Figure(
            "training_right_base|training_right_tuned", "Right, base and tuned", main=True, between=" and "
        ),
        *_agreement("base", "base"),
        *_agreement("tuned", "tuned"),
        Figure("verified_tokens", "Longest text compared, in tokens"),
        Figure("window", "Attention window, in tokens"),
        Figure("long_text_gap", "Largest gap in that text"),
        Figure("tokens_per_s_base", "Tokens/s, base"),
        Figure("tokens_per_s_tuned", "Tokens/s, tuned"),
        Figure("time_to_first_token_s_base", "First token after, base", show=_milliseconds),
        Figure("time_to_first_token_s_tuned", "First token after, tuned", show=_milliseconds),
        Figure("answers.question", "A question"),
        Figure("answers.base", "Answer of the base"),
        Figure("answers.tuned", "Answer of the tuned model"),
        Figure("verify_s", "Trying took", show=duration),
    ),
    "upload": (
        Figure("name", "Model", main=True),
        Figure("version", "Version", main=True),
        Figure("workspace", "Workspace", main=True),
        Figure("files", "Files", main=True),
        Figure("bytes", "Size", main=True, show=human_bytes),
        Figure("bytes_sent", "Sent now", main=True, show=human_bytes),
        Figure("user", "Signed in as"),
        Figure("id", "Id"),
        Figure("uri", "Path"),
        Figure("url", "Page"),
    ),
}
"""What is told of each stage's result, in this order."""


def result_lines(stage: str, result: Mapping[str, Any], *, main: bool = False) -> list[tuple[str, str]]:
    """A stage's result as label and value a line, cleaned of what could harm a terminal.

    Args:
        main: only those that matter most.
    """
    told = ((figure, figure.text(result)) for figure in FIGURES.get(stage, ()) if figure.main or not main)
    return [(figure.label, text) for figure, text in told if text]
