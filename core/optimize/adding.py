"""Adding an adapter to a model folder: its file, its note, and the graph where the adapter stands inside it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import StageError
from core.files import explained, write_json
from core.formats import listed
from core.language import told
from core.optimize.adapters import (
    MOST,
    SUFFIX,
    data_path,
    differences,
    made_for,
    note_path,
    read_layout,
    read_shapes,
    switch_differences,
    write_adapter_file,
    write_switch_file,
)
from core.optimize.switched import put_in

if TYPE_CHECKING:
    import torch


def add_adapter(
    model_folder: Path, name: str, inputs: dict[str, torch.Tensor], about: dict[str, Any]
) -> Path:
    """Add an adapter to a model folder and check what was written; returns its file.

    File and note appear whole, by renaming; the file first, since the note alone would name what is not there.
    Where adapters stand inside the graph, the graph is written anew before.

    Args:
        about: what the note says beside names, shapes and base: rank, alpha, where it came from.

    Raises:
        StageError: the file does not hold what was to be put into it, or does not fit the model.
    """
    layout = read_layout(model_folder)
    target = model_folder / "adapters" / f"{name}{SUFFIX}"
    half = target.with_name(f".{name}.{os.getpid()}.half")
    size = 0
    try:
        if layout.inside is not None:
            layout = replace(
                layout, inside={**layout.inside, name: put_in(model_folder, layout, name, inputs)}
            )
            layout.save(model_folder)
            write_switch_file(name, half)
            found = read_shapes(half)
            problems = switch_differences(found, name)
            size = data_path(target).stat().st_size
        else:
            write_adapter_file(inputs, layout.dtype, half)
            found = read_shapes(half)
            problems = differences(found, layout)
            problems += [told("{key} is missing", key=key) for key in inputs if key not in found]
        if problems:
            raise StageError(
                told("The adapter file came out wrong."),
                told("{problems}.", problems=listed(problems[:MOST], "; ")),
                code="optimize.verify",
            )
        key, wanted = made_for(model_folder, layout, name)
        note = {
            "name": name,
            **about,
            "dtype": layout.dtype,
            key: wanted,
            "bytes": half.stat().st_size + size,
            "parameters": [
                {"name": key, "shape": found[key][0], "dtype": found[key][1]} for key in sorted(found)
            ],
        }
        with explained(target):
            os.replace(half, target)
        write_json(note_path(target), note)
    finally:
        half.unlink(missing_ok=True)
    return target
