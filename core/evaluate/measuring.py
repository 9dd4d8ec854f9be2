"""A variant put to all rows, prompts and paragraphs by its own process; what is measured is kept as it comes.

The file ``.olivepress/evaluation/VARIANT.json`` has what was measured so far under the plan's key, so that a stopped
evaluation goes on where it was, and a variant that has not changed is not measured again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from core.errors import Cancelled, LabError, StageError, text_of
from core.evaluate.plan import EvaluationPlan, Variant
from core.events import Reporter
from core.files import read_if_whole, write_json
from core.hardware import free_ram
from core.language import told
from core.process import Child

ANSWERS_S = 900.0
"""Seconds that a variant may answer for; what is left then is not asked, and that is said."""
TIMED, TOGETHER = 5, 8
"""Answers that PyTorch gives one by one, so that they can be timed, and how many it gives at once after these."""
_KEPT_S = 2.0
_LOOK_S = 0.2
_LISTS = ("answers", "scores", "rejected", "general")

Kept = dict[str, Any]
_Made = TypeVar("_Made")


@dataclass
class Measuring:
    """The measuring of one evaluation's variants.

    Attributes:
        state: the folder for what was measured so far.
        reference: makes the file with the float model's log-probabilities of the general text, when it is first
            wanted, and gives its path.
        compared_with: the stamp of that model.
    """

    plan: EvaluationPlan
    state: Path
    report: Reporter
    versions: dict[str, str]
    reference: Callable[[], Path]
    compared_with: str
    _no_reference: bool = False

    def measure(self, variant: Variant) -> Kept:
        """All that is measured of a variant: the lists of :data:`_LISTS`, and its peak.

        Raises:
            LabError: it cannot be loaded, or fails.
            Cancelled: somebody asked to stop; what was measured is kept.
        """
        key = self.plan.key(variant, self.versions, self.compared_with)
        path = self.state / f"{variant.name}.json"
        kept = _read(path, key)
        if kept.get("whole"):
            self.report.log(f"{variant.title}: measured before, and nothing has changed.")
            return kept
        with Child("core.evaluate.worker", what=told("The process of {title}", title=variant.title)) as child:
            try:
                self._all(variant, child, kept, path)
            finally:
                write_json(path, kept)
        return kept

    def _all(self, variant: Variant, child: Child, kept: Kept, path: Path) -> None:
        plan = self.plan
        self.report.progress(told("{title}: loading", title=variant.title), 0, None)
        adapter = variant.adapter
        opened = ask(
            child,
            {
                "do": "open",
                "onnx": variant.onnx,
                "folder": str(variant.folder),
                "adapter": str(adapter) if adapter else "",
                "name": adapter.stem if adapter else "",
                "trust": plan.trust,
                "free": free_ram(),
            },
            self.report,
        )
        kept.update(opened)
        pairs = [row.rejected for row in plan.rows if row.rejected is not None]
        total = len(plan.prompts) + len(plan.rows) + len(pairs) + len(plan.general)
        steps = _Steps(self.report, variant.title, total)
        saved = time.monotonic()

        def keep(name: str, found: Any) -> None:
            nonlocal saved
            kept[name].append(found)
            steps.done = sum(len(kept[each]) for each in _LISTS)
            steps.tell()
            if time.monotonic() - saved > _KEPT_S:
                write_json(path, kept)
                saved = time.monotonic()

        self._answer(child, kept, keep, onnx=variant.onnx)
        for row in plan.rows[len(kept["scores"]) :]:
            found = ask(child, {"do": "score", "ids": row.ids, "learnt": row.learnt}, self.report)
            if not math.isfinite(found["loss"]):
                raise StageError(
                    told("{title} gives no numbers.", title=variant.title),
                    told("{file}, line {line}: its loss is not finite.", file=row.file, line=row.line),
                    code="evaluate.not-finite",
                )
            keep("scores", found)
        for other in pairs[len(kept["rejected"]) :]:
            keep(
                "rejected",
                ask(child, {"do": "score", "ids": other.ids, "learnt": other.trained}, self.report),
            )
        left = range(len(kept["general"]), len(plan.general))
        if left:
            file = self._reference_file()
            for place in left if file else ():
                message = {"do": "compare", "row": plan.general[place], "place": place, "path": file}
                keep("general", ask(child, message, self.report)["quality"])
        kept["whole"] = len(kept["general"]) == len(plan.general)

    def _reference_file(self) -> str:
        """The file to compare with; empty where it cannot be made, which is said once."""
        if self._no_reference:
            return ""
        found = tried(self.reference)
        if isinstance(found, LabError):
            self._no_reference = True
            self.report.log(f"The general text is left out: {found.title} {found.detail}".strip(), "warning")
            return ""
        return str(found)

    def _answer(self, child: Child, kept: Kept, keep: Callable[[str, Any], None], *, onnx: bool) -> None:
        prompts, ends = self.plan.prompts, self.plan.ends
        first = prompts[0]
        # The first answer of a process is slow: what it touches is not in memory yet.
        ask(child, {"do": "answer", "ids": first.ids, "most": 2, "ends": ends}, self.report)
        while left := prompts[len(kept["answers"]) :]:
            if kept["spent_s"] > ANSWERS_S and len(kept["answers"]) >= TIMED:
                break
            began = time.monotonic()
            if onnx or len(kept["answers"]) < TIMED:
                message = {"do": "answer", "ids": left[0].ids, "most": left[0].most, "ends": ends}
                found = [ask(child, message, self.report)]
            else:
                some = [{"ids": each.ids, "most": each.most} for each in left[:TOGETHER]]
                message = {"do": "answers", "prompts": some, "ends": ends}
                found = ask(child, message, self.report)["answers"]
            kept["spent_s"] += time.monotonic() - began
            for each in found:
                keep("answers", each)
        peak = ask(child, {"do": "peak"}, self.report)
        before = kept.get("peak") or {}
        kept["peak"] = {name: max(value, before.get(name, 0)) for name, value in peak.items()}


@dataclass
class _Steps:
    report: Reporter
    title: str
    total: int
    done: int = 0

    def tell(self) -> None:
        self.report.progress(self.title, self.done, self.total)


def _read(path: Path, key: str) -> Kept:
    found = read_if_whole(path)
    if isinstance(found, dict) and found.get("key") == key:
        return found
    return {"key": key, "spent_s": 0.0, **{each: [] for each in _LISTS}}


def ask(child: Child, message: dict[str, Any], report: Reporter) -> dict[str, Any]:
    """A request's result; stops waiting, and so ends the process, as soon as somebody asks to stop.

    Raises:
        LabError: the request failed, or the process is gone.
        Cancelled: somebody asked to stop.
    """
    call = child.start(message, lambda event: _hear(event, report))
    while True:
        report.check_cancelled()
        try:
            return call.future.result(timeout=_LOOK_S)
        except TimeoutError:
            continue


def _hear(event: dict[str, Any], report: Reporter) -> None:
    if event["type"] == "progress":
        report.progress(text_of(event, "phase"), event["done"], event["total"])
    elif event["type"] == "log":
        report.log(event["text"], event["level"])


def tried(work: Callable[[], _Made]) -> _Made | LabError:
    """What it gives, or the error that kept it from that; a request to stop goes on."""
    try:
        return work()
    except Cancelled:
        raise
    except LabError as error:
        return error
