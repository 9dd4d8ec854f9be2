"""What stands under each step in the rail, and which step needs which."""

from __future__ import annotations

from collections.abc import Mapping

from tui.snapshot import Snapshot
from tui.steps import STEPS
from tui.words import STATE_WORDS

NEEDS: Mapping[str, str] = {
    "finetune": "quantize",
    "optimize": "quantize",
    "chat": "optimize",
    "upload": "optimize",
}
"""The step whose result another one starts from."""


def blocked_by(step: str, snapshot: Snapshot) -> str:
    """The step that must be done first, or nothing."""
    needed = NEEDS.get(step, "")
    return needed if needed and needed not in snapshot.made else ""


def rail_words(snapshot: Snapshot, notes: Mapping[str, str]) -> dict[str, str]:
    """A word for each step: what it gave, what it does now, or what it needs."""
    words = {}
    for step in STEPS:
        job = snapshot.jobs.get(step.name)
        needed = blocked_by(step.name, snapshot)
        if job is not None and job.active:
            share = job.share
            words[step.name] = (
                f"{share:.0%}" if share is not None and job.state == "running" else STATE_WORDS[job.state]
            )
        elif step.name in snapshot.made and (job is None or job.state == "succeeded"):
            words[step.name] = "done"
        elif job is not None:
            words[step.name] = STATE_WORDS.get(job.state, job.state)
        elif needed:
            words[step.name] = f"needs {next(s.number for s in STEPS if s.name == needed)}"
        else:
            begun = step.name in ("check", "data") and (snapshot.made or snapshot.jobs)
            usual = "ready" if step.name == "chat" else "" if begun else "to do"
            words[step.name] = notes.get(step.name, usual)
    return words
