"""A job's own process, in which its stage runs: ``python -m core.jobs.worker JOBDIR``."""

from __future__ import annotations

import shutil
import signal
import sys
import time
import traceback
from contextlib import nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from core.errors import Cancelled, Do, Hint, LabError, MachineError, RequestError, StageError, Use
from core.events import JobReporter, now
from core.files import MANIFEST, damage, publish, read_if_whole, refusal, refuse_damaged, write_json
from core.folder import LabFolder, is_reference
from core.hardware import gpu_fault, is_out_of_memory
from core.jobs import prepared, reserve
from core.jobs.gpu import gpus_here, gpus_wanted, held
from core.jobs.job import Job
from core.jobs.monitor import Monitor
from core.jobs.processes import leave
from core.language import told
from core.recipe import OPTIONS, Recipe
from core.remote.asked import On, on
from core.report_page import write_report
from core.results import PREPARED, numbers_of
from core.stage_context import StageContext, known_facts, resolve_at_hand, resolve_for_stage
from core.stages import STAGES, Stage, stage_named
from core.text import first_line, without_logins


def folder_and_recipe(job: Job) -> tuple[LabFolder, Recipe]:
    """The lab a job belongs to and the recipe that it was started with.

    Raises:
        RequestError: the file that tells of it is gone or damaged.
    """
    lab = LabFolder(job.folder.parent.parent)
    saved = job.spec.get("recipe")
    if not isinstance(saved, dict):
        raise RequestError(
            told("What {id} is to do is not known any more.", id=job.id),
            told("{folder} is gone or damaged.", folder=job.folder / "spec.json"),
            told("Run it again."),
            code="file.damaged",
        )
    values = {
        f"{s}.{k}": v
        for s, group in saved.items()
        if isinstance(group, dict)
        for k, v in group.items()
        if k in OPTIONS.get(s, {})
    }
    return lab, Recipe().with_values(values)


def work_folder(job: Job) -> Path:
    """Where a job keeps what is half made: on the disk of the result, so that a rename publishes it."""
    return LabFolder(job.folder.parent.parent).models_dir / f".{job.id}.work"


def main(folder: Path) -> int:
    """Run the stage that the job's spec names; write ``outcome.json``; return the exit status."""
    job = Job(folder)
    try:
        try:
            reporter = JobReporter(folder, job.id)
            _obey_signals(reporter)
            reporter.emit("state", state="running")
            outcome = _run(job, reporter)
        finally:  # it is over: what comes now must not take the word from it
            _ignore_signals()
        state, status, error = "succeeded", 0, None
    except BaseException as failure:
        reserve.give_back(folder)  # the log needs room for what follows
        known = _explain(failure, job)
        if known.code == "job.unexpected" or (failure is known and failure.__cause__ is not None):
            _say(without_logins("".join(traceback.format_exception(failure))))
        # What to do about it is told with the outcome, in the words of who shows it.
        _say("\n".join(filter(None, (known.title, known.detail))))
        outcome = {}
        state = "cancelled" if isinstance(known, Cancelled) else "failed"
        status, error = known.exit_status, known.as_dict()
    reserve.give_back(folder)
    end = {"v": 1, "state": state, "exit_status": status, "error": error, "ended": now(), **outcome}
    try:
        write_json(folder / "outcome.json", end)
    except (LabError, OSError) as reason:  # nothing can be written there: who reads the folder finds out why
        _say(str(reason))
    return status


def _run(job: Job, reporter: JobReporter) -> dict[str, Any]:
    lab, written = folder_and_recipe(job)
    spec = job.spec
    reporter.progress(told("Looking at the settings, the model and the records"), 0, None)
    stage = stage_named(job.stage)
    options = _options(spec)
    elsewhere = on(options)
    # A model that only the other machine has is not fetched here: what is "auto" is settled there.
    settle = resolve_for_stage if elsewhere is None else resolve_at_hand
    resolved, facts = settle(stage, lab, written, reporter)
    recipe = resolved.recipe
    verify = bool(options.get("verify"))
    _refuse_damaged_inputs(stage, lab, recipe.finetune.adapter, verify=verify)
    module = stage.load()
    fingerprint = {"stage": job.stage, **module.fingerprint(lab, recipe)}
    output = module.output(lab, recipe)
    before = _manifest(output)
    same = before.get("fingerprint") == _plain(fingerprint)
    if output is not None and same and (broken := damage(output, verify=verify)):
        reporter.log(f"{output} is damaged and is made again: {' '.join(broken[:5])}", "warning")
    elif same and not spec.get("force"):
        reporter.log(f"Nothing has changed since {job.stage} ran last: {output} stays as it is.")
        return {"result": numbers_of(before), "auto": before.get("auto", []), "reused": True}
    if elsewhere is not None and output is not None:
        return _run_elsewhere(job, elsewhere, stage, lab, written, output, reporter)
    chosen = resolved.of(*stage.reads)
    for each in chosen:
        reporter.log(f"{each.option} is {each.words}: {each.reason}.")
    manifest: dict[str, Any] = {
        "fingerprint": _plain(fingerprint),
        **({PREPARED: prepared.mark()} if is_reference(lab.root) else {}),
        "auto": [each.as_dict() for each in chosen],
        "model": None if facts is None else {"source": written.model.source, "facts": facts.as_dict()},
    }
    work = _emptied(work_folder(job))
    try:
        if (reference := options.get(prepared.OPTION)) and output is not None:
            result = prepared.take(
                stage,
                LabFolder(Path(str(reference))),
                recipe.finetune.adapter,
                output,
                work,
                manifest["fingerprint"],
                reporter,
            )
            write_report(lab, written)
            return {"result": result, "auto": manifest["auto"]}
        gpus = gpus_here() if stage.computes else []
        turn = (
            held(gpus, gpus_wanted(job.stage, recipe, len(gpus)), job, reporter)
            if stage.computes
            else nullcontext()
        )
        with turn, Monitor(reporter) as monitor:
            began = time.monotonic()
            context = StageContext(
                lab,
                recipe,
                reporter,
                work,
                _plain(manifest),
                options,
                job.id,
            )
            if stage.computes:  # seconds, in which nothing else is to be seen
                reporter.progress(told("Loading the packages"), 0, None)
            result = module.run(context)
            seconds = time.monotonic() - began
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if output is not None:
        try:
            fingerprint = {"stage": job.stage, **module.fingerprint(lab, recipe)}
        except (LabError, OSError):  # an input is gone
            fingerprint = {}
        _mark_changed(output, fingerprint, reporter)
    if stage.computes:  # what an upload tells, it puts into the report itself
        write_report(lab, written)
    peaks = {name: round(value) for name, value in monitor.peaks().items()}
    return {
        "result": _plain(result),
        "auto": manifest["auto"],
        "peaks": peaks,
        "seconds": round(seconds, 2),
    }


def _options(spec: dict[str, Any]) -> dict[str, Any]:
    options = spec.get("options")
    return dict(options) if isinstance(options, dict) else {}


def _manifest(output: Path | None) -> dict[str, Any]:
    """What an earlier result says of itself; empty where there is none."""
    found = read_if_whole(output / MANIFEST) if output is not None else None
    return found if isinstance(found, dict) else {}


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _run_elsewhere(
    job: Job, where: On, stage: Stage, lab: LabFolder, written: Recipe, output: Path, reporter: JobReporter
) -> dict[str, Any]:
    """Have the stage run on another machine, and publish its result as if it had been made here."""
    from core.remote.fetch import as_made_here
    from core.remote.stage import run

    began = time.monotonic()
    force = bool(job.spec.get("force"))
    brought = run(stage.name, where, lab, written, job.folder, reporter, force=force)
    work = _emptied(work_folder(job))
    try:
        folder = work / "made"
        brought.folder.rename(folder)
        manifest = _manifest(folder)
        facts = manifest.get("model") if isinstance(manifest.get("model"), dict) else None
        as_made_here(folder, lab)
        manifest = {
            **manifest,
            "fingerprint": {},
            "model": facts and {**facts, "source": written.model.source},
            "made_on": {
                "service": "azureml",
                "compute": brought.sent.compute,
                "job": brought.sent.name,
                **brought.made.told.get("made_on", {}),
            },
        }
        if brought.unchanged:
            known = known_facts(manifest)
            resolved, _ = resolve_at_hand(stage, lab, written, reporter, known)
            print_ = stage.load().fingerprint(lab, resolved.recipe)
            manifest["fingerprint"] = _plain({"stage": stage.name, **print_})
        else:
            reporter.log(
                "The recipe or its files were changed since the job was sent: run this stage again.",
                "warning",
            )
        publish(folder, output, _plain(manifest))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    reporter.artifact(output, stage.makes.title if stage.makes else stage.title)
    write_report(lab, written)
    noted = brought.made.told
    return {
        "result": noted["result"],
        "auto": manifest.get("auto", []),
        "peaks": noted.get("peaks", {}),
        "seconds": round(float(noted.get("seconds") or time.monotonic() - began), 2),
    }


def _refuse_damaged_inputs(stage: Stage, lab: LabFolder, adapter: str, *, verify: bool) -> None:
    """Refuse to start from what is not as an earlier stage made it.

    That is the result of the stage that this one needs, and what others before this one have made of the same.
    """
    for earlier in STAGES.values():
        if earlier.name == stage.name:
            return
        if earlier.makes and (earlier.name == stage.needs or (stage.needs and earlier.needs == stage.needs)):
            again = told("Make it again: {run}", run=Do.of("run", lab.root, earlier.name))
            refuse_damaged(earlier.makes.folder(lab, adapter), again, verify=verify)


def _mark_changed(output: Path, now: dict[str, Any], reporter: JobReporter) -> None:
    """Say of a result that what it was made from has changed meanwhile: it may be of either, and is none to keep."""
    manifest = read_if_whole(output / MANIFEST)
    kept = manifest.get("fingerprint") if isinstance(manifest, dict) else None
    if not isinstance(kept, dict) or kept == (now := _plain(now)):
        return
    write_json(output / MANIFEST, {**manifest, "fingerprint": _of_either(kept, now)})
    reporter.log(
        f"What {output} is made from was changed while it was made: run this stage again.", "warning"
    )


def _of_either(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """A fingerprint whose changed parts are like no other."""
    found: dict[str, Any] = {}
    for name, value in before.items():
        other = after.get(name)
        if isinstance(value, dict) and isinstance(other, dict):
            found[name] = _of_either(value, other)
        else:
            found[name] = value if value == other else "changed while it was made"
    return found


def _plain(data: Any) -> Any:
    """Data as it comes back from JSON, so that a saved fingerprint equals a fresh one."""
    import json

    return json.loads(json.dumps(data, default=str))


def less_memory(stage: str) -> Hint:
    """What makes a stage take less memory."""
    if stage == "finetune":
        return told(
            "Lower {batch_size}, {rank} or {max_seq_len}, or use a machine with more memory.",
            batch_size=Use("finetune.batch_size"),
            rank=Use("finetune.rank"),
            max_seq_len=Use("data.max_seq_len"),
        )
    if stage == "quantize":
        return told(
            "Lower {calibration_samples}, or use a machine with more memory.",
            calibration_samples=Use("quantize.calibration_samples"),
        )
    return told("Close other programs, or use a machine with more memory.")


def _explain(failure: BaseException, job: Job) -> LabError:
    """Any exception as an error that says what happened and what to do."""
    if isinstance(failure, LabError) and not isinstance(failure, Cancelled):
        return failure
    if isinstance(failure, KeyboardInterrupt | Cancelled):
        said = failure if isinstance(failure, Cancelled) else Cancelled()
        return Cancelled(told("{id} was cancelled.", id=job.id), said.detail, said.advice)
    if is_out_of_memory(failure):
        noted = first_line(failure)
        return MachineError(
            told("There was not enough memory."),
            told("During {stage}: {error}", stage=job.stage, error=noted)
            if noted
            else told("During {stage}.", stage=job.stage),
            less_memory(job.stage),
            code="machine.memory",
        )
    if (fault := gpu_fault(failure)) is not None:
        return fault
    if isinstance(failure, OSError) and (refused := refusal(failure, job.folder)):
        return refused
    return StageError(
        told("{stage} stopped on an error that it did not expect.", stage=job.stage),
        told("{kind}: {failure}", kind=type(failure).__name__, failure=failure),
        told("The log has all of it: {log_path}", log_path=job.log_path),
        code="job.unexpected",
    )


def _say(text: str) -> None:
    """Write into the log, where that can be."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _obey_signals(reporter: JobReporter) -> None:
    """Let SIGTERM and Ctrl-C stop the work as a cancel does; what comes after the first changes nothing."""

    def stop(number: int, frame: FrameType | None) -> None:
        _ignore_signals()
        reporter.interrupt()

    for number in _SIGNALS:
        signal.signal(number, stop)


if __name__ == "__main__":
    leave(main(Path(sys.argv[1]).resolve()))
