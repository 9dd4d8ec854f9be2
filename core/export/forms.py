"""The forms that a lab's result is taken along in, once: what each is called and made from, and who makes it.

The command line, completion and the wizard's last screen are made from :data:`FORMS`. Light: a form's module is
loaded only when it is written.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from core.errors import RequestError
from core.language import told

if TYPE_CHECKING:
    from core.export.write import Exported, ExportRequest


class FormModule(Protocol):
    """What the module of a form has."""

    def run(self, wanted: ExportRequest) -> Exported:
        """Write it, or say why it cannot be: :func:`core.export.write.export` tells which errors there are."""


@dataclass(frozen=True)
class ExportForm:
    """A form to take the result along in.

    Attributes:
        name: as in ``olivepress export --to NAME``, and the key in :data:`FORMS`.
        title: for people.
        about: one sentence: what it is and who reads it.
        run: the module that writes it, a :class:`FormModule`.
        made_from: the stage whose result it is made from.
        types: in which types the weights can stand there; the first unless told otherwise. Empty: as they are.
        out: what stands for the place in the help: a folder, a file, or a repository.
        next: how it is used, with ``{out}`` for the place.
    """

    name: str
    title: str
    about: str
    run: str
    made_from: str = "optimize"
    types: tuple[str, ...] = ()
    out: str = "FOLDER"
    next: str = ""

    @property
    def is_folder(self) -> bool:
        """Whether a folder with the model is made."""
        return self.out == "FOLDER"

    def load(self) -> FormModule:
        """Its module, imported now."""
        return cast(FormModule, importlib.import_module(self.run))


_ALL = (
    ExportForm(
        "onnx",
        told("ONNX folder"),
        told("The ONNX model with its adapters and a program that asks it with onnxruntime-genai alone."),
        run="core.export.onnx",
        next="python {out}/ask.py 'What should I see in Paris?'",
    ),
    ExportForm(
        "foundry-local",
        told("Foundry Local"),
        told("The ONNX model with one adapter built in, in the folder that Foundry Local takes models from."),
        run="core.export.foundry",
        next="foundry cache cd {out}/.. and foundry model run {name}",
    ),
    ExportForm(
        "merged",
        told("Merged safetensors"),
        told(
            "One float model with the adapter folded in, which transformers, vLLM and others open as "
            "any model."
        ),
        run="core.export.merged",
        made_from="quantize",
        types=("model", "float16", "bfloat16", "float32", "int8"),
        next="transformers: AutoModelForCausalLM.from_pretrained('{out}')",
    ),
    ExportForm(
        "gguf",
        told("GGUF and Modelfile"),
        told(
            "One file for llama.cpp, LM Studio and their like, with the Modelfile that makes it a "
            "model of Ollama."
        ),
        run="core.export.gguf",
        made_from="quantize",
        types=("q8_0", "q4_1", "f16", "bf16", "f32"),
        next="cd {out} && ollama create {name} -f Modelfile",
    ),
    ExportForm(
        "peft",
        told("PEFT adapter and its base"),
        told("The adapter as PEFT reads it, beside the base that it was trained on, unpacked to float."),
        run="core.export.peft",
        made_from="quantize",
        types=("model", "float16", "bfloat16", "float32", "int8"),
        next="python {out}/ask.py 'What should I see in Paris?'",
    ),
    ExportForm(
        "hub",
        told("Hugging Face Hub"),
        told(
            "One of the other forms, sent to a repository of yours on the hub; private unless told otherwise."
        ),
        run="core.export.hub",
        out="OWNER/NAME",
    ),
    ExportForm(
        "olive",
        told("Olive workflow"),
        told("The same stages as a workflow file, for people who go on with Olive alone."),
        run="core.export.olive",
        made_from="",
        out="FILE.json",
    ),
    ExportForm(
        "script",
        told("Python script"),
        told("The same lab as a short program, to be changed and run again."),
        run="core.export.script",
        made_from="",
        out="FILE.py",
        next="python {out}",
    ),
    ExportForm(
        "slurm",
        told("Slurm batch script"),
        told("The same run as a script for sbatch, in this lab, on a machine of a cluster that sees it."),
        run="core.export.slurm",
        made_from="",
        out="FILE.sh",
        next="sbatch {out}",
    ),
    ExportForm(
        "skypilot",
        told("SkyPilot task"),
        told("The same run as a task for sky launch, with what it needs in a folder beside it."),
        run="core.export.skypilot",
        made_from="",
        out="FILE.yaml",
        next="cd $(dirname {out}) && sky launch {name}",
    ),
)

FORMS: dict[str, ExportForm] = {form.name: form for form in _ALL}
"""Every form by its name, in the order in which people are shown them."""


def form_named(name: str) -> ExportForm:
    """The form of that name.

    Raises:
        RequestError: there is none.
    """
    if name not in FORMS:
        raise RequestError(
            told("There is no form {name!r} to export to.", name=name),
            hint=told("The forms are: {forms}.", forms=", ".join(FORMS)),
            code="export.unknown",
        )
    return FORMS[name]


def type_of(form: ExportForm, asked: str) -> str:
    """The type of the weights: the one that was asked for, or the form's own.

    Raises:
        RequestError: the form has not that one.
    """
    if asked and asked not in form.types:
        raise RequestError(
            told("{title} has no type {asked!r}.", title=form.title, asked=asked)
            if form.types
            else told("{title} takes no type.", title=form.title),
            told("--type {asked} with --to {name}.", asked=asked, name=form.name),
            told("The types are: {types}.", types=", ".join(form.types))
            if form.types
            else told("Leave --type out."),
            code="export.type",
        )
    return asked or next(iter(form.types), "")
