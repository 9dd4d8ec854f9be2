"""What the stage screens say of a job: its headline, its progress, its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from textual.content import Content

from core.formats import duration, number, time_left
from core.text import clean
from tui.signs import bar
from tui.snapshot import JobView
from tui.steps import Step

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
    parts: list[Content | tuple[str, str]] = [
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
        parts.append(Content("  it finishes what it must, at most 15 s"))
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
    return Content.assemble((bar(share, 24), "$text-accent"), (f" {share:>4.0%}  ", "bold"), Content(text))


def measured(view: JobView, names: Mapping[str, str]) -> Content:
    """The newest value of these metrics, by their words."""
    found = [(word, number(view.metrics[name])) for name, word in names.items() if name in view.metrics]
    return Content("   ").join([Content.assemble(f"{word} ", (value, "bold")) for word, value in found])


def obstacle(stage: str, missing: Step | None, running: JobView | None) -> str:
    """Why the stage cannot be started now; empty when it can."""
    if missing is not None:
        return (
            f"This step starts from what step {missing.number} makes. Do {missing.title} first; "
            "the settings can be chosen now."
        )
    if running is None or running.stage == "upload":
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
    return "$text-warning" if state in ("cancelled", "cancelling") else "$text-accent"
