"""What the wizard says of jobs, states and options, in words for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from textual.content import Content

from core.language import N_, _, changed, in_use, pgettext, shown
from core.stages import STAGES
from core.text import clean
from tui.figures import duration, number, time_left
from tui.glyphs import alive, bar
from tui.snapshot import JobView
from tui.steps import Step
from tui.theme import QUIET

STATE_WORDS: Mapping[str, str] = {
    "queued": N_("waiting"),
    "running": N_("running"),
    "cancelling": N_("stopping"),
    "succeeded": N_("done"),
    "failed": N_("failed"),
    "cancelled": N_("stopped"),
    "crashed": N_("crashed"),
}
"""A job's state in a word, to be translated where it is shown."""

ENDS: Mapping[str, str] = {
    "succeeded": N_("succeeded"),
    "failed": N_("failed"),
    "cancelled": N_("cancelled"),
    "crashed": N_("crashed"),
}
"""How a job ended, as :data:`STATE_WORDS`."""


def label(key: str) -> str:
    """An option's key as a person reads it: ``learning_rate`` gives ``Learning rate``."""
    if in_use() == "en":
        return _EXACT.get(key) or _LABELS.get(key, key.replace("_", " ")).strip().capitalize()
    words = _words(key)
    return words[:1].upper() + words[1:]


def label_within(option: str) -> str:
    """The label of ``section.key`` or of a key, as it stands within a sentence."""
    key = option.rpartition(".")[2]
    return label(key).lower() if in_use() == "en" else _words(key)


def _words(key: str) -> str:
    return _(_EXACT.get(key) or _LABELS.get(key, key.replace("_", " ")))


_LABELS = {
    "source": N_("model"),
    "file": N_("data file"),
    "trust_remote_code": N_("trust model code"),
    "max_seq_len": N_("longest record"),
    "max_calibration_len": N_("longest sample"),
    "eval_fraction": N_("held out"),
    "group_size": N_("group size"),
    "gradient_accumulation": N_("accumulation"),
    "eval_every": N_("measure every"),
    "stop_early": N_("stop early after"),
    "keep": N_("keep the step"),
    "save_steps": N_("checkpoint every"),
    "calibration_samples": N_("samples"),
    "max_new_tokens": N_("longest answer"),
    "adapter": N_("adapter name"),
    "resource_group": N_("resource group"),
    "warmup_ratio": N_("warm-up"),
    "repetition_penalty": N_("repetition penalty"),
    "algorithm": N_("algorithm"),
    "bits": N_("bits"),
    "template": N_("template"),
    "prompt_field": N_("prompt field"),
    "response_field": N_("response field"),
    "messages_field": N_("messages field"),
    "label_field": N_("label field"),
    "rejected_field": N_("rejected field"),
    "answer_only": N_("answer only"),
    "seed": N_("seed"),
    "eight_bit_layers": N_("eight bit layers"),
    "calibration_file": N_("calibration file"),
    "objective": N_("objective"),
    "beta": N_("beta"),
    "rank": N_("rank"),
    "alpha": N_("alpha"),
    "steps": N_("steps"),
    "batch_size": N_("batch size"),
    "learning_rate": N_("learning rate"),
    "turns": N_("turns"),
    "dropout": N_("dropout"),
    "memory": N_("memory"),
    "track": N_("track"),
    "device": N_("device"),
    "provider": N_("provider"),
    "precision": N_("precision"),
    "adapters": N_("adapters"),
    "embeddings": N_("embeddings"),
    "system": N_("system"),
    "temperature": N_("temperature"),
    "context_tokens": N_("context tokens"),
    "rows": N_("rows"),
    "general_text": N_("general text"),
    "tasks": N_("tasks"),
    "task_folder": N_("task folder"),
    "task_limit": N_("task limit"),
    "subscription": N_("subscription"),
    "workspace": N_("workspace"),
    "name": N_("name"),
    "version": N_("version"),
    "tags": N_("tags"),
    "concurrency": N_("concurrency"),
    "registered": N_("registered"),
}
_EXACT = {"top_p": N_("Top p"), "top_k": N_("Top k"), "gpus": N_("GPUs")}

_METRICS = {
    "tokens_per_s": N_("tokens/s"),
    "learning_rate": N_("rate"),
    "grad_norm": N_("gradient"),
    "margin": N_("margin"),
    "eval_preferred": N_("preferred right"),
    "gpu_mem_gib": N_("GPU GiB"),
    "ram_gib": N_("memory GiB"),
    "cpu_util": N_("CPU %"),
}

HEADLINES = {
    "queued": N_("Starting"),
    "running": N_("Running"),
    "cancelling": N_("Stopping"),
    "succeeded": N_("Done"),
    "failed": N_("FAILED"),
    "cancelled": N_("Stopped"),
    "crashed": N_("CRASHED"),
}
"""A job's state as a headline."""


def headline(view: JobView, now: float, changed: bool) -> Content:
    """State, id and time of a job; ``changed`` tells that its settings are others now."""
    until = now if view.active else view.ended
    seconds = None if view.started is None or until is None else max(0, round(until - view.started))
    # It turns with the seconds beside it, so that both are drawn at once.
    turning = f"{alive(now if seconds is None else seconds)} " if view.active else ""
    parts: list[Content | tuple[str, str]] = [
        (turning, f"bold {_colour(view.state)}"),
        (_(HEADLINES.get(view.state, view.state)), f"bold {_colour(view.state)}"),
        Content(f"  {view.id}"),
    ]
    if view.reused:
        parts.append(Content("  " + _("nothing had changed, so nothing was done again")))
    elif seconds is not None:
        took = duration(seconds)
        told = (
            pgettext("running", "for {time}", time=took)
            if view.active
            else pgettext("done", "in {time}", time=took)
            if view.state == "succeeded"
            else pgettext("failed", "after {time}", time=took)
        )
        parts.append(Content(f"  {told}"))
    if view.state == "cancelling":
        parts.append(Content("  " + _("it stops once it is safe")))
    if view.state == "succeeded" and changed:
        parts.append(("  " + _("settings have changed since"), "$text-warning"))
    return Content.assemble(*parts)


def phase_words(view: JobView) -> str:
    """What a job is doing."""
    return shown(changed(view.phase, lambda text: clean(text, keep_newlines=False)))


def progress(view: JobView) -> Content | str:
    """A bar, the phase, how far it is, and the time left."""
    phase = phase_words(view)[:120] or _("starting")
    share = view.share
    if share is None:
        return f"{phase} …"
    count = (
        _("{done} of {total}", done=number(view.done or 0), total=number(view.total or 0))
        if (view.total or 0) > 1
        else ""
    )
    tail = time_left(view.eta_s) if view.state == "running" else ""
    text = "  ".join(part for part in (phase, count, tail) if part)
    return Content.assemble(bar(share, 24), (f" {share:>4.0%}  ", "bold"), Content(text))


def measured(view: JobView, names: Sequence[str]) -> Content:
    """The newest value of these metrics, in words."""
    found = [
        (_(_METRICS.get(name, name)), number(view.metrics[name])) for name in names if name in view.metrics
    ]
    return Content("   ").join([Content.assemble(f"{word} ", (value, "bold")) for word, value in found])


def obstacle(stage: str, missing: Step | None, running: JobView | None) -> str:
    """Why the stage cannot be started now; empty when it can."""
    if missing is not None:
        return _(
            "This step starts from what step {number} makes. Do {title} first; "
            "the settings can be chosen now.",
            number=missing.number,
            title=missing.title,
        )
    if running is None or not STAGES[running.stage].computes:
        return ""
    if running.stage == stage:
        return _("{id} is running; these settings are for the next run.", id=running.id)
    return _("{id} is running. One job runs at a time: this step can start when it is over.", id=running.id)


def columns(rows: Sequence[tuple[str, str]], width: int) -> Content:
    """Rows of label and value, in up to three columns where they fit in ``width``."""
    if not rows:
        return Content("")
    rows = [(clean(name, keep_newlines=False), clean(value, keep_newlines=False)) for name, value in rows]
    cells = [Content.assemble((f"{name}  ", QUIET), (value, "bold")) for name, value in rows]
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
