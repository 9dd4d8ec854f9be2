"""The adapter as PEFT reads it, beside the base that it was trained on: the lab's rounded model, unpacked to float."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from core.errors import Do, RequestError
from core.export.merged import INT8, dtype_of, fitting_lora, float_bytes, write_float
from core.export.onnx import lab_prompts
from core.export.programs import ask_peft
from core.export.prompts import starts_by_tokenizer
from core.export.write import Exported, ExportRequest, into_folder
from core.files import read_json, write_json
from core.language import told

BASE, ADAPTER = "base", "adapter"
_FILES = ("adapter_config.json", "adapter_model.safetensors")


def run(wanted: ExportRequest) -> Exported:
    """Write base, adapter and the program that puts them together."""
    adapter = wanted.adapter
    if adapter is None:
        raise RequestError(
            told("There is no adapter to export."),
            told(
                "{finetuned_root} has none, or --no-adapter left it out.",
                finetuned_root=wanted.folder.finetuned_root,
            ),
            told(
                "Train one: {run}; the base alone: {export}",
                run=Do.of("run", wanted.lab.root, "finetune"),
                export=Do.of("export", wanted.lab.root, "--to", "merged", "OUT", "--no-adapter"),
            ),
            code="export.adapter",
        )
    checkpoint, source = wanted.folder.quantized_dir, wanted.folder.finetuned_dir(adapter)
    lora = fitting_lora(wanted)
    assert lora is not None
    dtype = dtype_of(checkpoint, wanted.type)

    def write(folder: Path) -> dict[str, Any]:
        (folder / BASE).mkdir()
        notes = write_float(wanted, folder / BASE, wanted.type, None)
        (folder / ADAPTER).mkdir()
        for name in _FILES:
            shutil.copyfile(source / name, folder / ADAPTER / name)
        config = read_json(folder / ADAPTER / _FILES[0])
        write_json(folder / ADAPTER / _FILES[0], {**config, "base_model_name_or_path": BASE})
        prompts = lab_prompts(wanted, folder / BASE)
        program = ask_peft(
            wanted.lab.recipe, adapter, starts_by_tokenizer(prompts), packed=wanted.type == INT8
        )
        (folder / "ask.py").write_text(program, encoding="utf-8")
        return {"dtype": str(dtype).removeprefix("torch."), "rank": lora.rank, "notes": notes}

    return into_folder(wanted, float_bytes(checkpoint, dtype), write)
