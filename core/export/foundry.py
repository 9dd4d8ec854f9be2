"""The folder that Foundry Local takes a model from: the ONNX model, one adapter built in, and ``inference_model.json``.

Foundry Local loads no adapters, so the matrices of one take the place of the graph's empty ones: the same numbers in
the same nodes as in the lab's chat. It finds a model below its cache folder by ``genai_config.json`` and
``inference_model.json`` with a ``Name``; its newer versions write prompts by the model's own chat template, older
ones by ``PromptTemplate``.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import StageError
from core.export.onnx import copy_model, finish, lab_prompts, model_and_adapter
from core.export.prompts import turns_of
from core.export.write import Exported, ExportRequest, free_place, into_folder
from core.files import folder_bytes, write_json
from core.folder import lab_command
from core.language import told
from core.optimize.adapters import LAYOUT_FILE, check_adapter, data_path, read_layout
from core.optimize.switched import leave_on

if TYPE_CHECKING:
    import torch

ADAPTER_DATA = "model.onnx.adapter.data"


def run(wanted: ExportRequest) -> Exported:
    """Copy the model, build the adapter in, and describe it for Foundry Local."""
    source, adapter = model_and_adapter(wanted)
    name = free_place(wanted).name

    def write(folder: Path) -> dict[str, Any]:
        copy_model(source, folder, without=("adapters", "merged", LAYOUT_FILE))
        if (source / LAYOUT_FILE).is_file():
            build_in(source, wanted.folder.adapter_file(adapter) if adapter is not None else None, folder)
        notes = finish(wanted, folder)
        turns = turns_of(lab_prompts(wanted, folder))
        if turns is None:
            notes.append(told("Older versions of Foundry Local have no prompt template for this model."))
        write_json(
            folder / "inference_model.json",
            {"Name": name, "PromptTemplate": turns.by_role() if turns is not None else None},
        )
        return {"name": name, "notes": notes}

    return into_folder(wanted, folder_bytes(source), write)


def build_in(source: Path, adapter_file: Path | None, folder: Path) -> None:
    """Make an adapter, and no other, part of the graph of a model folder's copy.

    Args:
        source: the folder that the adapter belongs to, with its layout.
        adapter_file: None to have the base alone.
        folder: the copy; its graph is written anew, the weights beside it stay.

    Raises:
        RequestError: the adapter does not fit the model.
        StageError: the graph has not the places that its layout tells of.
    """
    import onnx

    if adapter_file is not None:
        check_adapter(source, adapter_file)
    layout = read_layout(source)
    graph = folder / "model.onnx"
    model = onnx.load(str(graph), load_external_data=False)
    if layout.inside is not None:
        leave_on(model.graph, adapter_file.stem if adapter_file else None, layout.inside, source)
        if adapter_file is not None:
            (folder / "adapters").mkdir()
            shutil.copyfile(data_path(adapter_file), data_path(folder / "adapters" / adapter_file.name))
        graph.write_bytes(model.SerializeToString())
        return
    if adapter_file is None:
        return
    matrices = _matrices(adapter_file)
    known = {each.name: each for each in model.graph.initializer}
    places = set(layout.inputs())
    if missing := sorted(places - known.keys()):
        raise StageError(
            told("The ONNX model has not the places that its layout tells of."),
            told("{source}: {missing}.", source=source, missing=missing[0]),
            told("Make it anew: {run}", run=lab_command(source, "run", "optimize", "--force")),
            code="export.unusable",
        )
    with (folder / ADAPTER_DATA).open("wb") as stream:
        for name, tensor in sorted(matrices.items()):
            _place(known[name], tensor, stream.tell())
            stream.write(_bytes(tensor))
    kept = [each for each in model.graph.input if each.name not in places]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    graph.write_bytes(model.SerializeToString())


def _matrices(adapter_file: Path) -> dict[str, torch.Tensor]:
    from torch.utils.dlpack import from_dlpack

    from core.optimize.genai import import_runtime

    values = import_runtime().AdapterFormat.read_adapter(str(adapter_file)).get_parameters()
    return {name: from_dlpack(value._ortvalue.to_dlpack()).clone() for name, value in values.items()}


def _bytes(tensor: torch.Tensor) -> bytes:
    import torch

    return bytes(tensor.contiguous().view(torch.uint8).numpy().data)


def _place(initializer: Any, tensor: torch.Tensor, offset: int) -> None:
    """Let an initializer of the graph be a tensor in the file beside it."""
    from onnx import TensorProto

    initializer.ClearField("raw_data")
    del initializer.float_data[:], initializer.int32_data[:], initializer.dims[:]
    initializer.dims.extend(tensor.shape)
    initializer.data_location = TensorProto.EXTERNAL
    del initializer.external_data[:]
    noted = {"location": ADAPTER_DATA, "offset": offset, "length": tensor.numel() * tensor.element_size()}
    for key, value in noted.items():
        entry = initializer.external_data.add()
        entry.key, entry.value = key, str(value)
