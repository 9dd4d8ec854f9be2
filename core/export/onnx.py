"""The ONNX model with its adapters, and a program that asks it with onnxruntime-genai alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from core.errors import Do, RequestError, StageError, text_of
from core.export.programs import ask_onnx
from core.export.prompts import put_template, turns_of
from core.export.write import Exported, ExportRequest, into_folder
from core.files import MANIFEST, folder_bytes, read_if_whole
from core.folder import adapter_names, merged_folder
from core.language import told
from core.model.inside import refuse_links
from core.model.messages import Message
from core.model.prompt_format import PromptFormat, read_prompt_format
from core.text import first_line


def run(wanted: ExportRequest) -> Exported:
    """Copy the folder, add the program, and see that the runtime reads a question as the lab's chat does."""
    source, adapter = model_and_adapter(wanted)

    def write(folder: Path) -> dict[str, Any]:
        copy_model(source, folder)
        notes = finish(wanted, folder)
        (folder / "ask.py").write_text(ask_onnx(wanted.lab.recipe, adapter), encoding="utf-8")
        return {"adapters": adapter_names(source), "notes": notes}

    return into_folder(wanted, folder_bytes(source), write)


def model_and_adapter(wanted: ExportRequest) -> tuple[Path, str | None]:
    """The model folder that is exported, and its adapter: none for the model that the adapter was merged into."""
    folder, adapter = wanted.folder.onnx_dir, wanted.adapter
    if adapter is not None and (merged := merged_folder(folder, adapter)).is_dir():
        return merged, None
    return folder, adapter


def copy_model(source: Path, folder: Path, *, without: tuple[str, ...] = ()) -> None:
    """Copy a model folder's files, but for the manifest and those names."""
    refuse_links(source, below=True)
    ignored = shutil.ignore_patterns(MANIFEST, ".*", *without)
    shutil.copytree(source, folder, ignore=ignored, dirs_exist_ok=True, copy_function=shutil.copyfile)


def lab_prompts(wanted: ExportRequest, folder: Path) -> PromptFormat:
    """How the lab writes conversations for the model whose tokenizer lies in a folder."""
    data = wanted.lab.recipe.data
    return read_prompt_format(folder, data.template, answer=data.response_field)


def finish(wanted: ExportRequest, folder: Path) -> list[str]:
    """Give an ONNX folder the lab's own chat template, open it with the runtime, and say where it reads otherwise.

    Raises:
        StageError: the runtime does not open it.
    """
    prompts = lab_prompts(wanted, folder)
    notes = put_template(prompts, turns_of(prompts), folder)
    if prompts.plain_text:
        notes.append(told("The records are text without questions, so no conversation is as in training."))
    made = read_if_whole(wanted.folder.onnx_dir / MANIFEST)
    result = (made.get("result") or {}) if isinstance(made, dict) else {}
    if result.get("verified") is False:
        why = text_of(result, "why_not_verified") or told("no such device")
        notes.append(told("It was not tried on this machine: {why!d}.", why=why))
    elif not _reads_alike(wanted, folder, prompts):
        notes.append(
            told(
                "onnxruntime-genai's own tokenizer cuts a question into other tokens than the model was "
                "trained on: answers may differ from the lab's chat."
            )
        )
    return notes


def _reads_alike(wanted: ExportRequest, folder: Path, prompts: PromptFormat) -> bool:
    import json

    from core.optimize.genai import import_genai, open_model

    og = import_genai()
    asked = [Message("user", "What's to see in Paris, in 3 days?\n\nTwo cafés — naïve?")]
    if system := wanted.lab.recipe.chat.system:
        asked.insert(0, Message("system", system))
    noted = json.dumps([message.as_dict() for message in asked])
    try:
        tokenizer = og.Tokenizer(open_model(folder))
    except Exception as error:  # the runtime raises what it likes; its words are all that is known
        raise StageError(
            told("The exported model cannot be opened."),
            told("{folder}: {error}.", folder=folder, error=first_line(error)),
            told("Make the ONNX model anew: {run}", run=Do.of("run", wanted.lab.root, "optimize", "--force")),
            code="export.unusable",
        ) from None
    try:
        text = tokenizer.apply_chat_template(messages=noted, add_generation_prompt=True)
        ids = [int(each) for each in tokenizer.encode(text)]
    except Exception as error:  # as above: a template that its small Jinja does not know
        raise RequestError(
            told("onnxruntime-genai does not understand the model's chat template."),
            told("{folder}/chat_template.jinja: {error}.", folder=folder, error=first_line(error)),
            told("Chat in the lab, or export another form."),
            code="export.template",
        ) from None
    return ids == prompts.prompt_ids(asked)
