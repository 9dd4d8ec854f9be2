"""What stands under each step in the rail."""

from __future__ import annotations

from collections.abc import Mapping

from tui.labels import STATE_WORDS
from tui.snapshot import Snapshot
from tui.steps import steps


def rail_words(snapshot: Snapshot, notes: Mapping[str, str]) -> dict[str, str]:
    """A word for each step: what it gave, what it does now, or what it needs."""
    words = {}
    for step in steps():
        job = snapshot.jobs.get(step.name)
        needed = step.missing(snapshot)
        if job is not None and job.active:
            share = job.share
            words[step.name] = (
                f"{share:.0%}" if share is not None and job.state == "running" else STATE_WORDS[job.state]
            )
        elif step.name in snapshot.made and (job is None or job.state == "succeeded"):
            words[step.name] = "done"
        elif job is not None:
            words[step.name] = STATE_WORDS.get(job.state, job.state)
        elif needed is not None:
            words[step.name] = f"needs {needed.number}"
        else:
            begun = step.name in ("check", "data") and (snapshot.made or snapshot.jobs)
            usual = "ready" if step.name == "chat" else "" if begun else "to do"
            words[step.name] = notes.get(step.name, usual)
    return words
