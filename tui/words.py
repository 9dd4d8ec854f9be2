"""States and options in words for people."""

from __future__ import annotations

from collections.abc import Mapping

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
    """An option's key as a person reads it: ``learning_rate`` gives ``Learning rate``."""
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
