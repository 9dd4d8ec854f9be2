"""A stage's prepared result, put into a lab in the place of one's own: the work was done in a reference lab.

Every file comes as it is there, with its times, the manifest too: what the lab then says of the result is what the
reference lab says of it, and that it is the prepared one. A later stage, and the next run of this one, find it as made.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from core.errors import Do, RequestError
from core.events import Reporter, now
from core.files import MANIFEST, publish, read_json, refuse_damaged, require_disk
from core.folder import LabFolder
from core.formats import human_bytes
from core.language import told
from core.results import PREPARED
from core.stages import Stage

OPTION = "prepared"
"""The option of a job that names the reference lab."""


def mark() -> str:
    """What the manifest of a reference lab's result says, and with it that of each copy: the day."""
    return now()[:10]


def take(
    stage: Stage,
    reference: LabFolder,
    adapter: str,
    output: Path,
    work: Path,
    fingerprint: dict[str, Any],
    report: Reporter,
) -> dict[str, Any]:
    """Put the reference lab's result of a stage in place; return it in numbers.

    Args:
        adapter: the one that is meant, where there is a result for each.
        output: where the result is to lie.
        work: an empty folder on the same disk.
        fingerprint: what a run in the lab itself would be made from: it is said where the prepared one is not.

    Raises:
        RequestError: the reference lab has no such result, or it is damaged.
        MachineError: there is not enough disk.
        Cancelled: asked to stop.
    """
    source = stage.makes.folder(reference, adapter) if stage.makes else None
    again = Do.of("run", reference.root, stage.name)
    manifest = None if source is None else read_json(source / MANIFEST)
    if source is None or not isinstance(manifest, dict):
        raise RequestError(
            told("There is no prepared result of {name}.", name=stage.name),
            told("{root} has none for the adapter {adapter}.", root=reference.root, adapter=adapter)
            if source
            else told("{root} has none.", root=reference.root),
            told("Make it with: {again}", again=again),
            code="workshop.not-prepared",
        )
    refuse_damaged(source, told("Make it again: {again}", again=again))
    files = [path for path in sorted(source.rglob("*")) if path.is_file() and path != source / MANIFEST]
    total = sum(path.stat().st_size for path in files)
    require_disk(work, total)
    report.log(f"The prepared result of {stage.name} is put in place: {human_bytes(total)} from {source}.")
    made, done = work / "prepared", 0
    for path in [*files, source / MANIFEST]:  # the manifest last: what is younger is taken to be changed
        report.check_cancelled()
        target = made / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        found = path.stat()
        os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
        done += found.st_size
        report.progress(told("copying the prepared result"), min(done, total), total)
    if manifest.get("fingerprint") != fingerprint:
        report.log(
            "It was made with other settings, files or packages than this lab has: a run here would make it anew.",
            "warning",
        )
    publish(made, output, as_it_is=True)
    result = manifest.get("result")
    noted = dict(result) if isinstance(result, dict) else {}
    return {**noted, PREPARED: str(manifest.get(PREPARED) or mark())}
