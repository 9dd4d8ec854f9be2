"""What the wizard says of jobs, states and options, in words for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from textual.content import Content

from core.formats import duration, number, time_left
from core.stages import STAGES
from core.text import clean
from tui.glyphs import alive, bar
from tui.snapshot import JobView
from tui.steps import Step

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
    "eval_every": "measure every",
    "stop_early": "stop early after",
    "keep": "keep the step",
    "save_steps": "checkpoint every",
    "calibration_samples": "samples",
    "max_new_tokens": "longest answer",
    "adapter": "adapter name",
    "resource_group": "resource group",
    "warmup_ratio": "warm-up",
    "repetition_penalty": "repetition penalty",
}
_EXACT = {"top_p": "Top p", "top_k": "Top k", "gpus": "GPUs"}

_METRICS = {
    "tokens_per_s": "tokens/s",
    "learning_rate": "rate",
    "grad_norm": "gradient",
    "margin": "margin",
    "eval_preferred": "preferred right",
    "gpu_mem_gib": "GPU GiB",
    "ram_gib": "memory GiB",
    "cpu_util": "CPU %",
}

HEADLINES = {
    "queued": "Starting",
    "running": "Running",
    "cancelling": "Stopping",
    "succeeded": "Done",
    "failed": "FAILED",
    "cancelled": "Stopped",
    "crashed": "CRASHED",
}
"""A job's state as a headline."""


def headline(view: JobView, now: float, changed: bool) -> Content:
    """State, id and time of a job; ``changed`` tells that its settings are others now."""
    turning = f"{alive(now)} " if view.active else ""
    parts: list[Content | tuple[str, str]] = [
        (turning, f"bold {_colour(view.state)}"),
        (HEADLINES.get(view.state, view.state), f"bold {_colour(view.state)}"),
        Content(f"  {view.id}"),
    ]
    if view.reused:
        parts.append(Content("  nothing had changed, so nothing was done again"))
    elif view.started is not None:
        until = now if view.active else view.ended
        if until is not None:
            word = "for" if view.active else "in" if view.state == "succeeded" else "after"
            parts.append(Content(f"  {word} {duration(max(0, round(until - view.started)))}"))
    if view.state == "cancelling":
        parts.append(Content("  it stops once it is safe"))
    if view.state == "succeeded" and changed:
        parts.append(("  settings have changed since", "$text-warning"))
    return Content.assemble(*parts)


def progress(view: JobView) -> Content | str:
    """A bar, the phase, how far it is, and the time left."""
    phase = clean(view.phase, keep_newlines=False)[:60] or "starting"
    share = view.share
    if share is None:
        return f"{phase} …"
    count = f"{number(view.done or 0)} of {number(view.total or 0)}" if (view.total or 0) > 1 else ""
    tail = time_left(view.eta_s) if view.state == "running" else ""
    text = "  ".join(part for part in (phase, count, tail) if part)
    return Content.assemble(bar(share, 24), (f" {share:>4.0%}  ", "bold"), Content(text))


def measured(view: JobView, names: Sequence[str]) -> Content:
    """The newest value of these metrics, in words."""
    found = [(_METRICS.get(name, name), number(view.metrics[name])) for name in names if name in view.metrics]
    return Content("   ").join([Content.assemble(f"{word} ", (value, "bold")) for word, value in found])


def obstacle(stage: str, missing: Step | None, running: JobView | None) -> str:
    """Why the stage cannot be started now; empty when it can."""
    if missing is not None:
        return (
            f"This step starts from what step {missing.number} makes. Do {missing.title} first; "
            "the settings can be chosen now."
        )
    if running is None or not STAGES[running.stage].computes:
        return ""
    if running.stage == stage:
        return f"{running.id} is running; these settings are for the next run."
    return f"{running.id} is running. One job runs at a time: this step can start when it is over."


def columns(rows: Sequence[tuple[str, str]], width: int) -> Content:
    """Rows of label and value, in up to three columns where they fit in ``width``."""
    if not rows:
        return Content("")
    rows = [(clean(name, keep_newlines=False), clean(value, keep_newlines=False)) for name, value in rows]
    cells = [Content.assemble((f"{name}  ", "$foreground 60%"), (value, "bold")) for name, value in rows]
    widest = max(cell.cell_length for cell in cells) + 3
    across = max(1, min(3, width // widest))
    lines = []
    for start in range(0, len(cells), across):
        row = cells[start : start + across]
        lines.append(Content("").join([cell.pad_right(widest - cell.cell_length) for cell in row]))
    return Content("\n").join(lines)


def _colour(state: str) -> str:
    if state == "succeeded":
        return "$text-success"
    if state in ("failed", "crashed"):
        return "$text-error"
    return "$text-warning" if state in ("cancelled", "cancelling") else "$text-primary"
