"""Is there a model to talk to, and with which adapter? Told without loading anything."""

from __future__ import annotations

from pathlib import Path

from core.errors import RequestError
from core.folder import LabFolder, lab_command
from core.optimize.trusted import CONFIG_FILE, check_config, graph_name
from core.text import command


def check_model(folder: Path, lab: LabFolder | None = None) -> None:
    """Refuse a folder that holds no ONNX chat model.

    Args:
        lab: the lab that the folder belongs to; then the error says which step makes the model.

    Raises:
        RequestError: no such folder, a file of the model is missing, or its configuration asks for what is refused.
    """
    if not folder.is_dir():
        raise RequestError("There is no model to talk to yet.", f"{folder} does not exist.", _next_step(lab))
    _refuse_missing(folder / CONFIG_FILE)
    _refuse_missing(folder / graph_name(check_config(folder)))


def _refuse_missing(file: Path) -> None:
    if not file.is_file():
        raise RequestError(
            "The model is not whole.",
            f"{file} is missing.",
            "Make it again: " + lab_command(file, "run", "optimize", "--force"),
        )


def _next_step(lab: LabFolder | None) -> str:
    if lab is None:
        return "Name a folder with genai_config.json and model.onnx."
    missing = []
    if not lab.quantized_dir.is_dir():
        missing.append("quantize")
    if not lab.finetuned_root.is_dir() or not any(lab.finetuned_root.iterdir()):
        missing.append("finetune")
    return "The optimize step makes it. Run: " + command("run", lab.root, *missing, "optimize")


def choose_adapter(model_dir: Path, there: list[str], wanted: str | None, usual: str) -> str | None:
    """The adapter to begin with.

    Args:
        model_dir: where the model lies.
        there: the adapters beside it.
        wanted: a name, None for the base, or ``"auto"``: the only one, or ``usual`` if it is among several.

    Raises:
        RequestError: the one wanted is not there.
    """
    if wanted is None or wanted == "":
        return None
    if wanted in there:
        return wanted
    if wanted == "auto":
        if len(there) == 1:
            return there[0]
        return usual if usual in there else None
    raise RequestError(
        f"There is no adapter {wanted!r}.",
        f"The model has: {', '.join(there) or 'no adapter'}.",
        "Name one of those, or train it: " + lab_command(model_dir, "run", "finetune", "optimize"),
    )
