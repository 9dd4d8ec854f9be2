"""Where the text side of a recipe's model lies, for the data step: its tokenizer files and chat template.

Only files that lie on this machine are read; nothing is fetched, and no weights are touched.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from core.errors import RequestError
from core.folder import LabFolder
from core.model.text import ModelText, read_text
from core.recipe import Recipe


def model_folder(recipe: Recipe, lab_root: Path, *, unpack: bool = True) -> Path | None:
    """Where the recipe's model (or what was made of it) keeps its tokenizer files on this machine.

    Args:
        unpack: take them out of a GGUF file if that was not done yet, which takes seconds.
    """
    lab = LabFolder(lab_root)
    found = _source_folder(recipe.model.source, lab_root, unpack)
    for folder in (found, lab.quantized_dir, lab.onnx_dir):
        if folder is not None and (
            (folder / "tokenizer.json").is_file() or (folder / "tokenizer_config.json").is_file()
        ):
            return folder
    return None


def _source_folder(source: str, lab_root: Path, unpack: bool) -> Path | None:
    from core.model.sources import at_hand, kind_of, local_place

    if kind_of(source, lab_root) == "gguf":
        from core.model.gguf import text_folder

        with suppress(RequestError):  # the check of the model tells why
            return text_folder(local_place(source, lab_root), make=unpack)
        return None
    return at_hand(source, lab_root, "tokenizer.json") or at_hand(source, lab_root, "tokenizer_config.json")


def read_model_text(recipe: Recipe, lab_root: Path, *, unpack: bool = True) -> ModelText:
    """The text side of the recipe's model; empty where the model is not on this machine.

    Args:
        unpack: as for :func:`model_folder`. Without it a GGUF file's header tells all but the tokenizer itself.
    """
    folder = model_folder(recipe, lab_root, unpack=unpack)
    if folder is not None:
        return read_text(folder)
    from core.model.sources import kind_of, local_place

    if not unpack and kind_of(recipe.model.source, lab_root) == "gguf":
        from core.model.gguf import check_gguf, text_of

        with suppress(RequestError):  # the check of the model tells why
            return text_of(check_gguf(local_place(recipe.model.source, lab_root)))
    return ModelText()
