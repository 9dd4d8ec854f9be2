"""Numbers, times and states in words for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tui.signs import sign


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: ``8 s``, ``3 min 05 s``, ``2 h 10 min``; empty for None."""
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def time_left(seconds: float | None) -> str:
    """An estimate, coarse on purpose: a figure that jumps is not believed."""
    if seconds is None:
        return ""
    if seconds < 10:
        return "a few seconds left"
    if seconds < 55:
        return f"about {round(seconds / 10) * 10} s left"
    if seconds < 3540:
        return f"about {max(1, round(seconds / 60))} min left"
    return f"about {round(seconds / 3600, 1):g} h left"


def number(value: float) -> str:
    """A number with as many digits as help."""
    if value != value or value in (float("inf"), float("-inf")):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}".replace(",", " ")
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    if size >= 10:
        return f"{value:.1f}"
    if size >= 0.01:
        return f"{value:.3f}"
    return f"{value:.2g}"


def size(count: float) -> str:
    """Bytes in decimal units, as disks and hubs count them."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"


STATE_WORDS: Mapping[str, str] = {
    "queued": "waiting",
    "running": "running",
    "cancelling": "stopping",
    "succeeded": "done",
    "failed": "failed",
    "cancelled": "stopped",
    "crashed": "crashed",
}
"""A job's state in a word."""


def label(key: str) -> str:
    """An option's or a result's key as a person reads it: ``learning_rate`` gives ``Learning rate``."""
    return (
        (_LABELS.get(key) or key.replace("_", " ")).strip().capitalize() if key not in _EXACT else _EXACT[key]
    )


_LABELS = {
    "source": "model",
    "file": "data file",
    "trust_remote_code": "trust model's code",
    "max_seq_len": "longest record",
    "max_calibration_len": "longest sample",
    "eval_fraction": "held out",
    "group_size": "group size",
    "gradient_accumulation": "accumulation",
    "eval_steps": "measure every",
    "save_steps": "checkpoint every",
    "calibration_samples": "samples",
    "max_new_tokens": "longest answer",
    "adapter": "adapter name",
    "resource_group": "resource group",
    "warmup_ratio": "warm-up",
    "repetition_penalty": "repetition penalty",
}
_EXACT = {"top_p": "Top p", "top_k": "Top k"}


def result_rows(result: Mapping[str, Any], said: Mapping[str, str] | None = None) -> list[tuple[str, str]]:
    """A stage's result as rows of label and value; what is not a number, text or switch is left out.

    Args:
        said: the keys to show, in order, with their labels; all of them where none of these is there.
            ``before|after`` shows two figures in one row.
    """
    rows = []
    chosen: dict[str, Any] = {}
    for key in said or {}:
        first, _, then = key.partition("|")
        if result.get(first) is not None and (not then or result.get(then) is not None):
            chosen[key] = result[first]
    for key, value in (chosen or result).items():
        name = chosen and said and said[key]
        if "|" in key and name:
            # Two figures that belong together: before and after.
            first, _, then = key.partition("|")
            values = [_with_unit(part, float(result[part])) for part in (first, then)]
            rows.append((name, f" {sign('to')} ".join(values)))
        elif isinstance(value, bool):
            rows.append((name or label(key), "yes" if value else "no"))
        elif isinstance(value, int | float):
            rows.append((name or _unit_label(key), _with_unit(key, float(value))))
        elif isinstance(value, str) and value:
            rows.append((name or label(key), value))
    return rows


_UNITS: Mapping[str, Callable[[float], str]] = {
    "_bytes": size,
    "_s": lambda value: duration(value) if value >= 60 else f"{value:.1f} s",
    "_gib": lambda value: f"{value:.1f} GiB",
    "seconds": lambda value: duration(value) if value >= 60 else f"{value:.1f} s",
    "seconds_per_step": lambda value: f"{value:.2f} s",
    "_percent": lambda value: f"{value:.1f} %",
}


def _with_unit(key: str, value: float) -> str:
    if key == "bytes" or key.startswith("bytes_") or key.endswith("_bytes"):
        return size(value)
    if not key.endswith("_per_s"):
        for ending, show in _UNITS.items():
            if key.endswith(ending):
                return show(value)
    return number(value)


def _unit_label(key: str) -> str:
    if key.endswith("_per_s"):
        return label(key.removesuffix("_per_s")) + " a second"
    for ending in _UNITS:
        if key.endswith(ending):
            return label(key.removesuffix(ending))
    return label(key)
