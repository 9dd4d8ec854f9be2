"""The evaluate stage: what each step of the lab cost and gave, on records that the training never saw."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from core.data import resolve_data_file
from core.errors import Cancelled, Do, LabError, RequestError, StageError
from core.evaluate.measuring import Kept, Measuring, ask, tried
from core.evaluate.plan import EvaluationPlan, Variant, general_file, make_plan, variants
from core.evaluate.summing import numbers_of, rows_of, summary
from core.evaluated import ROWS
from core.files import MANIFEST, content_stamp, folder_stamp, publish, read_if_whole, read_json, write_atomic
from core.folder import LabFolder
from core.formats import human_bytes
from core.hardware import free_ram
from core.language import told
from core.model.auto import Settled
from core.model.folder import model_facts
from core.process import Child
from core.stage_context import StageContext, versions
from core.stale import made_apart, other_held_out, other_source
from core.text import json_line

_PACKAGES = ("olivepress", "olive-ai", "onnxruntime-genai", "torch", "transformers")
_PROCESS = 1 << 30
"""Bytes that PyTorch and its libraries take beside a model, at most."""


def fingerprint(lab: LabFolder, recipe: Settled) -> dict[str, Any]:
    """All that the figures depend on.

    Raises:
        RequestError: there is no quantized model, or no data.
    """
    quantized = lab.quantized_dir
    if not (quantized / "config.json").is_file():
        raise RequestError(
            told("There is nothing to evaluate yet."),
            told("{quantized} does not hold a model.", quantized=quantized),
            told("Make it first with: {command}", command=Do.of("run", lab.root)),
            code="result.missing",
        )
    manifest = read_json(quantized / MANIFEST)
    adapter = lab.finetuned_dir(recipe.finetune.adapter)
    return {
        "base": manifest["fingerprint"]
        if manifest and "fingerprint" in manifest
        else folder_stamp(quantized),
        "adapter": recipe.finetune.adapter,
        "adapter_stamp": folder_stamp(adapter) if adapter.is_dir() else None,
        "onnx": folder_stamp(lab.onnx_dir) if lab.onnx_dir.is_dir() else None,
        "records": content_stamp(resolve_data_file(recipe, lab.root)),
        "data": dataclasses.asdict(recipe.data),
        "evaluate": dataclasses.asdict(recipe.evaluate),
        "max_new_tokens": recipe.chat.max_new_tokens,
        "general": _content(general_file(recipe, lab.root)),
        "tasks": _content(_task_folder(recipe, lab.root)),
        "versions": versions(*_PACKAGES, *(["lm-eval"] if recipe.evaluate.tasks else [])),
    }


def _content(path: Path | None) -> str | None:
    return content_stamp(path) if path is not None and path.exists() else None


def _task_folder(recipe: Settled, root: Path) -> Path | None:
    named = recipe.evaluate.task_folder
    return root / Path(named).expanduser() if named else None


def output(lab: LabFolder, recipe: Settled) -> Path:
    """The folder of the adapter's evaluation."""
    return lab.evaluation_dir(recipe.finetune.adapter)


def run(context: StageContext) -> dict[str, Any]:
    """Measure every variant, each in a process of its own, and publish the figures.

    Raises:
        RequestError: nothing to measure, or nothing to measure on.
        StageError: no variant could be measured.
        Cancelled: asked to stop; what was measured is kept for the next time.
    """
    from core.quantize.quality import BUDGET, affordable
    from core.quantize.verify import running_device

    lab, recipe, report = context.lab, context.recipe, context.report
    if recipe.evaluate.tasks:
        from core.evaluate.tasks import require

        require()
    facts = model_facts(lab.quantized_dir)
    tokens = min(affordable(facts, running_device()), BUDGET // max(facts.vocab_size, 1))
    plan = make_plan(lab, recipe, report, max(2, tokens))
    source, left_out = _float_model(context)
    there = variants(lab, recipe.finetune.adapter, source)
    state = lab.state_dir / "evaluation"
    before = read_if_whole(output(lab, recipe) / MANIFEST)
    if isinstance(before, dict) and before.get("fingerprint") == context.manifest["fingerprint"]:
        shutil.rmtree(state, ignore_errors=True)  # forced: all of it is to be measured again
    reference = _Reference(context, plan, source or lab.quantized_dir)
    measuring = Measuring(plan, state, report, versions(*_PACKAGES), reference.file, reference.stamp)
    older = _older(context)
    found: dict[str, Kept] = {}
    for variant in there:
        if variant.name == "float" and (why := _too_large(variant, running_device())):
            left_out[variant.name] = why
            report.log(f"{variant.title} is left out: {why}", "warning")
            continue
        kept = tried(lambda variant=variant: measuring.measure(variant))  # type: ignore[misc]
        if isinstance(kept, LabError):
            left_out[variant.name] = _words(kept)
            report.log(f"{variant.title} is left out: {_words(kept)}", "warning")
            continue
        found[variant.name] = kept
        _tell(context, variant, numbers_of(plan, variant, kept))
    if not found:
        raise StageError(
            told("No variant of the model could be measured."),
            " ".join(left_out.values()),
            code="evaluate.nothing-measured",
        )
    result = summary(plan, [each for each in there if each.name in found], found)
    result |= {"adapter": recipe.finetune.adapter, "left_out": left_out, "compared_with": reference.name}
    result |= older
    if result["compared_with"] == "float" and source is not None and recipe.quantize.algorithm != "none":
        result["kl_by_layer"] = _by_layer(context, plan, source)
    if recipe.evaluate.tasks:
        from core.evaluate.tasks import run_tasks

        measured = [each for each in there if each.name in found]
        result["tasks"] = run_tasks(context, measured, _task_folder(recipe, lab.root))
    made = context.work / "evaluation"
    made.mkdir()
    write_atomic(made / ROWS, "".join(f"{json_line(row)}\n" for row in rows_of(plan, found)))
    target = output(lab, recipe)
    publish(made, target, {**context.manifest, "result": result})
    report.artifact(target, "evaluation")
    return result


def _older(context: StageContext) -> dict[str, Any]:
    """What of the lab does not go with the rest of it, for the result, and said."""
    apart = made_apart(context.lab, context.recipe)
    for name, why in apart.items():
        context.report.log(
            f"The variants do not belong together: {name} is of before, {why}. Run it again.", "warning"
        )
    learnt = other_held_out(context.lab, context.recipe)
    if learnt:
        context.report.log(
            f"The adapter was trained when other records were held out, and may have learnt these: {learnt}.",
            "warning",
        )
    return {"apart": apart, "other_held_out": learnt}


def _float_model(context: StageContext) -> tuple[Path | None, dict[str, str]]:
    """The folder of the model that the quantized one was made from; where it is not to be had, why."""
    from core.model.sources import resolve_model

    model = context.recipe.model
    if why := other_source(context.lab, context.recipe):
        context.report.log(
            f"The float model is left out, for the quantized one is not of it: {why}.", "warning"
        )
        return None, {"float": f"{why}."}
    try:
        found = resolve_model(
            model.source, context.lab.root, context.report, trust_remote_code=model.trust_remote_code
        )
    except Cancelled:
        raise
    except (LabError, OSError) as error:
        why = _words(error) if isinstance(error, LabError) else str(error)
        context.report.log(f"The float model is not to be had, and is left out: {why}", "warning")
        return None, {"float": why}
    return found.path, {}


def _too_large(variant: Variant, device: str) -> str:
    """Why the float model is not loaded on this machine; empty where it fits."""
    if device != "cpu":
        return ""
    needed, free = model_facts(variant.folder).parameters * 4 + _PROCESS, free_ram()
    if needed < free:
        return ""
    return told(
        "It takes about {needed} of memory in PyTorch, and {free} are free.",
        needed=human_bytes(needed),
        free=human_bytes(free),
    )


LAYERS_FLOPS = 4e12
"""Float operations that the changing of one layer at a time may take on a CPU: a minute or two."""


def _by_layer(context: StageContext, plan: EvaluationPlan, source: Path) -> list[float]:
    """The divergence that each layer's quantizing costs; empty where that would take too long or too much memory."""
    from core.quantize.quality import within_budget
    from core.quantize.verify import running_device

    report, quantized = context.report, context.lab.quantized_dir
    facts, tokens = model_facts(source), 512
    if running_device() == "cpu":
        tokens = min(256, int(LAYERS_FLOPS / (2 * facts.parameters * max(facts.layers, 1))))
        needed = 4 * facts.parameters + model_facts(quantized).weight_bytes + _PROCESS
        if tokens < 16 or needed > free_ram():
            report.log("What each layer's quantizing costs is not measured: the model is too large here.")
            return []
    rows = within_budget(plan.general, facts.vocab_size, tokens)
    message = {
        "do": "layers",
        "source": str(source),
        "quantized": str(quantized),
        "rows": rows,
        "trust": plan.trust,
    }

    def work() -> list[float]:
        with Child("core.evaluate.worker", what=told("The process of the layers")) as child:
            found: list[float] = ask(child, message, report)["kl"]
            return [float(f"{each:.4g}") for each in found]

    found = tried(work)
    if isinstance(found, LabError):
        report.log(f"What each layer's quantizing costs is not known: {_words(found)}", "warning")
        return []
    return found


def _words(error: LabError) -> str:
    return f"{error.title} {error.detail}".strip()


def _tell(context: StageContext, variant: Variant, numbers: dict[str, Any]) -> None:
    report = context.report
    report.metric(f"perplexity_{variant.name}", numbers["perplexity"]["value"])
    said = f"{variant.title}: perplexity {numbers['perplexity']['value']:.2f} on held-out rows"
    if numbers.get("right"):
        said += f", {numbers['right']['value']:.0%} of the answers right"
    if numbers.get("tokens_per_s"):
        said += f", {numbers['tokens_per_s']['value']:.1f} tokens a second"
    report.log(f"{said}.")


class _Reference:
    """The float model's log-probabilities of the general text: made when first wanted, kept while the job may go on.

    Attributes:
        name: the variant that the others are compared with: the float model, or the quantized one without it.
        stamp: tells its folder from what stood there before.
    """

    def __init__(self, context: StageContext, plan: EvaluationPlan, folder: Path) -> None:
        self._context, self._plan, self._folder = context, plan, folder
        self.name = "quantized" if folder == context.lab.quantized_dir else "float"
        self.stamp = folder_stamp(folder)
        self._path = context.work / "reference.safetensors"

    def file(self) -> Path:
        """The file.

        Raises:
            LabError: it cannot be made.
        """
        if not self._path.is_file():
            self._context.report.progress(told("Reading the general text"), 0, None)
            with Child("core.evaluate.worker", what=told("The float model's process")) as child:
                ask(
                    child,
                    {
                        "do": "reference",
                        "folder": str(self._folder),
                        "rows": self._plan.general,
                        "trust": self._plan.trust,
                        "path": str(self._path),
                    },
                    self._context.report,
                )
        return self._path
