"""lm-eval's own tasks on the lab's variants: PyTorch's through its Hugging Face backend, ONNX through its genai one.

Tasks of its library fetch their questions from the hub; a folder may hold others (``evaluate.task_folder``), a YAML
file each as lm-eval's guide says, with questions in files beside it. Each variant runs in a process of its own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.errors import LabError, MachineError, RequestError, StageError
from core.evaluate.measuring import Kept, ask, tried
from core.evaluate.plan import Variant
from core.hardware import free_ram, package_version
from core.language import told
from core.process import Child, Request, serve
from core.stage_context import StageContext
from core.text import first_line

PACKAGE = "lm-eval"


def names(text: str) -> list[str]:
    """The tasks that ``evaluate.tasks`` names."""
    return list(dict.fromkeys(name for each in text.split(",") if (name := each.strip())))


def require() -> None:
    """Refuse where lm-eval is not installed.

    Raises:
        MachineError: it is not (``evaluate.lm-eval``).
    """
    if not package_version(PACKAGE):
        raise MachineError(
            told("lm-eval is not installed."),
            told("evaluate.tasks names tasks of it."),
            told("Install it: pip install 'olivepress[evaluate]'"),
            code="evaluate.lm-eval",
        )


def run_tasks(
    context: StageContext, variants: Sequence[Variant], folder: Path | None
) -> dict[str, dict[str, dict[str, list[float | None]]]]:
    """Each metric of each task: ``{task: {metric: {variant: [value, standard error]}}}``.

    Raises:
        LabError: a task is not known, its questions cannot be had, or every variant failed.
    """
    recipe, report = context.recipe, context.report
    found: dict[str, dict[str, dict[str, list[float | None]]]] = {}
    failed: list[LabError] = []
    for number, variant in enumerate(variants):
        report.progress("lm-eval", number, len(variants))
        message = {
            "onnx": variant.onnx,
            "folder": str(variant.folder),
            "adapter": str(variant.adapter) if variant.adapter else "",
            "trust": recipe.model.trust_remote_code,
            "free": free_ram(),
            "tasks": names(recipe.evaluate.tasks),
            "task_folder": str(folder) if folder else "",
            "limit": recipe.evaluate.task_limit,
        }
        said = tried(lambda message=message: _run(message, context))  # type: ignore[misc]
        if isinstance(said, LabError):
            if isinstance(said, RequestError):  # it is the tasks' fault and no variant's
                raise said
            failed.append(said)
            report.log(f"lm-eval on {variant.title}: {said.title} {said.detail}", "warning")
            continue
        for task, metrics in said["results"].items():
            for metric, value in metrics.items():
                found.setdefault(task, {}).setdefault(metric, {})[variant.name] = value
    report.progress("lm-eval", len(variants), len(variants))
    if failed and not found:
        raise failed[0]
    return found


def _run(message: dict[str, Any], context: StageContext) -> Kept:
    with Child("core.evaluate.tasks", what=told("The process of lm-eval")) as child:
        return ask(child, message, context.report)


# The child's end


def handle(request: Request) -> dict[str, Any]:
    """Run the tasks on one variant.

    Raises:
        RequestError: a task is not known, or its questions cannot be read.
    """
    ask = request.ask
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=ask["task_folder"] or None)
    unknown = [name for name in ask["tasks"] if name not in manager.all_tasks]
    if unknown:
        raise RequestError(
            told("lm-eval has no task {unknown}.", unknown=repr(unknown[0])),
            told("Looked for in {task_folder}.", task_folder=ask["task_folder"] or told("its own tasks")),
            told("lm-eval ls tasks lists its own; --task-folder names a folder with others."),
            code="evaluate.no-task",
        )
    model = _onnx(ask) if ask["onnx"] else _torch(ask)
    try:
        tasks = manager.load(ask["tasks"])
    except Exception as error:  # a YAML file, a data set, the network: each library has errors of its own
        raise RequestError(
            told("The questions of a task cannot be had."),
            told(
                "{names}: {name}: {error}",
                names=", ".join(ask["tasks"]),
                name=type(error).__name__,
                error=first_line(error),
            ),
            told(
                "Tasks of lm-eval fetch their questions from the hub: connect once, or use tasks of your own."
            ),
            code="evaluate.task-data",
        ) from error
    assert tasks
    try:
        found = lm_eval.simple_evaluate(
            model=model,
            tasks=ask["tasks"],
            task_manager=manager,
            limit=ask["limit"] or None,
            log_samples=False,
            bootstrap_iters=1000,
        )
    except Exception as error:
        raise StageError(
            told("lm-eval failed."),
            told(
                "{names}: {name}: {error}",
                names=", ".join(ask["tasks"]),
                name=type(error).__name__,
                error=first_line(error),
            ),
            code="evaluate.lm-eval-failed",
        ) from error
    return {"results": _metrics(found["results"] if found else {})}


def _metrics(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[float | None]]]:
    """The numbers of lm-eval's results; its keys are ``metric,filter`` and ``metric_stderr,filter``."""
    found: dict[str, dict[str, list[float | None]]] = {}
    for task, values in results.items():
        for key, value in values.items():
            name, comma, kind = key.partition(",")
            if not comma or name.endswith("_stderr") or not _is_number(value):
                continue
            off = values.get(f"{name}_stderr,{kind}")
            shown = name if kind == "none" else f"{name} ({kind})"
            found.setdefault(task, {})[shown] = [
                float(value),
                None if off is None or not _is_number(off) else float(off),
            ]
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _torch(ask: Mapping[str, Any]) -> Any:
    from lm_eval.models.huggingface import HFLM

    from core.evaluate.worker import TorchModel
    from core.model.load import load_tokenizer

    folder = Path(ask["folder"])
    adapter = Path(ask["adapter"]) if ask["adapter"] else None
    made = TorchModel(folder, adapter, trust=ask["trust"], free=ask["free"])
    return HFLM(pretrained=made.model, tokenizer=load_tokenizer(folder, ask["trust"]), batch_size=1)


def _onnx(ask: Mapping[str, Any]) -> Any:
    from lm_eval.models.onnxruntime_genai import ONNXRuntimeGenAILM

    from core.optimize.genai import import_genai
    from core.optimize.trusted import check_onnx_folder

    folder = Path(ask["folder"])
    check_onnx_folder(folder)
    og = import_genai()
    model = ONNXRuntimeGenAILM(pretrained=str(folder))
    if ask["adapter"]:
        file = Path(ask["adapter"])
        adapters = og.Adapters(model.model)
        adapters.load(str(file), file.stem)
        model.og = _Adapted(og, adapters, file.stem)
    return model


class _Adapted:
    """The runtime's module, whose generators have an adapter on: lm-eval's backend knows none."""

    def __init__(self, og: Any, adapters: Any, name: str) -> None:
        self._og, self._adapters, self._name = og, adapters, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._og, name)

    def Generator(self, model: Any, params: Any) -> Any:
        """A generator with the adapter."""
        made = self._og.Generator(model, params)
        made.set_active_adapter(self._adapters, self._name)
        return made


if __name__ == "__main__":
    serve(handle, grace_s=0)
