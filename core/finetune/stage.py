"""The finetune stage: a LoRA adapter, trained on the quantized model, saved as PEFT saves it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from core.data import resolve_data_file
from core.errors import Do, RequestError, StageError
from core.events import Reporter
from core.files import MANIFEST, content_stamp, folder_bytes, folder_stamp, publish, read_json, write_atomic
from core.folder import LabFolder
from core.language import told
from core.model.auto import Settled
from core.recipe import recipe_text
from core.stage_context import StageContext, versions
from core.trackers import tracking

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")

NOT_IN_RESULT = ("save_steps", "memory", "gpus", "track")
"""Options that change how the training is done and not what comes out: a checkpoint outlives them."""


def fingerprint(lab: LabFolder, recipe: Settled) -> dict[str, Any]:
    """All that the adapter depends on.

    Raises:
        RequestError: the quantized model or the data is missing, or an option is impossible.
    """
    # A recipe that was made by hand in Python is checked here first.
    recipe.with_values(
        {f"finetune.{key}": value for key, value in dataclasses.asdict(recipe.finetune).items()}
    )
    base = lab.quantized_dir
    if not (base / "config.json").is_file():
        raise RequestError(
            told("There is no quantized model to train on."),
            told("{base} does not hold one.", base=base),
            told("Make it first with: {command}", command=Do.of("run", lab.root, "quantize")),
            code="result.missing",
        )
    manifest = read_json(base / MANIFEST)
    data = resolve_data_file(recipe, lab.root)
    without = (*NOT_IN_RESULT, "beta") if recipe.finetune.objective == "sft" else NOT_IN_RESULT
    finetune = {k: v for k, v in dataclasses.asdict(recipe.finetune).items() if k not in without}
    return {
        # What quantize says it was made from; a folder put there by hand is known by its files.
        "base": manifest["fingerprint"] if manifest and "fingerprint" in manifest else folder_stamp(base),
        "records": content_stamp(data),
        "data": dataclasses.asdict(recipe.data),
        "finetune": finetune,
        "versions": versions("olive-ai", "peft", "torch", "transformers"),
    }


def output(lab: LabFolder, recipe: Settled) -> Path:
    """The adapter's folder."""
    return lab.finetuned_dir(recipe.finetune.adapter)


def run(context: StageContext) -> dict[str, Any]:
    """Train, verify and publish the adapter; goes on from a checkpoint of the same training.

    Raises:
        RequestError: no quantized model, no usable data, or an impossible option.
        StageError: the training failed, or its result did not pass.
        MachineError: not enough memory or disk, or no such tracker here.
        Cancelled: asked to stop; the checkpoint stays.
    """
    # Read when torch is loaded: threads that wait without spinning leave the cores to who works on
    # them. Beside another program the training is several times faster so, alone hardly slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Batches differ in length: segments that can grow leave fewer holes in the GPU's memory.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    lab, recipe = context.lab, context.recipe
    tracked = {
        f"{table}.{key}": value
        for table in ("model", "data", "quantize", "finetune")
        for key, value in dataclasses.asdict(getattr(recipe, table)).items()
    }
    with tracking(recipe.finetune.track, lab.root, context.job, tracked, context.report) as report:
        return _run(context, report)


def _run(context: StageContext, report: Reporter) -> dict[str, Any]:
    lab, recipe = context.lab, context.recipe
    prints = fingerprint(lab, recipe)
    from core.finetune.checkpoints import Checkpoints, key_of
    from core.finetune.lora import RESULT
    from core.olive.run import run_workflow, workflow

    checkpoints = Checkpoints(lab.checkpoints_dir(recipe.finetune.adapter), key_of(prints))
    recipe_file = context.work / "recipe.toml"
    write_atomic(recipe_file, recipe_text(recipe))
    made = run_workflow(
        workflow(
            lab.quantized_dir,
            {
                "finetune": lora_pass(
                    recipe_file,
                    lab.root,
                    checkpoints=str(checkpoints.folder),
                    checkpoint_key=checkpoints.key,
                    adapter_only=True,
                )
            },
            trust_remote_code=recipe.model.trust_remote_code,
        ),
        work=context.work,
        report=report,
        failure=told("The training failed."),
        phases={"Loading weights": "loading", "Replacing submodules": "loading"},
    )
    folder = made.adapter_path
    result = made.attributes.get(RESULT)
    if folder is None or result is None or not all((folder / name).is_file() for name in ADAPTER_FILES):
        raise StageError(
            told("The training made no adapter."),
            told("Olive left nothing in {folder}.", folder=folder),
            told("Run it again."),
            code="finetune.verify",
        )
    base, tuned = result["eval_loss_base"], result["eval_loss_tuned"]
    if base is not None and tuned is not None:
        report.log(f"Loss on held-out records: {base:.4f} before, {tuned:.4f} after.")
        if result.get("eval_preferred_tuned") is not None:
            report.log(
                f"Preferred as they should be: {result['eval_preferred_base']:.0%} of the held-out records before, "
                f"{result['eval_preferred_tuned']:.0%} after."
            )
        if tuned >= base:
            report.log(
                "The adapter is no better on held-out records than the base. More steps, more records or "
                "a lower learning rate may help.",
                "warning",
            )
    result = {"adapter": recipe.finetune.adapter, **result, "bytes": folder_bytes(folder)}
    target = output(lab, recipe)
    publish(folder, target, {**context.manifest, "result": result})
    report.artifact(target, "LoRA adapter")
    checkpoints.clear()
    return result


def lora_pass(recipe_file: Path, root: Path, **more: Any) -> dict[str, Any]:
    """The stage as a pass of an Olive workflow.

    Args:
        recipe_file: a ``lab.toml``; the pass reads from it what to train on, and how.
        root: the lab folder, which ``data.file`` is relative to.
        more: further options of the pass, such as ``checkpoints``.
    """
    return {"type": "OlivePressLora", "recipe": str(recipe_file), "data_root": str(root), **more}
