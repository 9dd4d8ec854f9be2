"""What the data step needs of the model: its tokenizer file, chat template and special tokens.

Only files that lie on this machine are read; nothing is fetched, and no weights are touched.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.data.template import ChatTemplate
from core.files import read_json
from core.folder import LabFolder
from core.recipe import Recipe

_LIKE_SPECIAL = re.compile(r"<\|.*\|>|<｜.*｜>", re.DOTALL)


@dataclass(frozen=True)
class ModelText:
    """The text side of a model.

    Attributes:
        folder: where its tokenizer files lie; None where they are not on this machine.
        tokenizer: `tokenizer.json`, if there is one.
        chat: its chat template.
        special: the tokens that mean more than their letters, longest first.
    """

    folder: Path | None = None
    tokenizer: Path | None = None
    chat: ChatTemplate | None = None
    eos: str = ""
    special: tuple[str, ...] = ()

    @property
    def special_pattern(self) -> re.Pattern[str] | None:
        """Finds special tokens in text; None where they are not known."""
        return re.compile("|".join(map(re.escape, self.special))) if self.special else None


def model_folder(recipe: Recipe, lab_root: Path) -> Path | None:
    """Where the recipe's model (or what was made of it) keeps its tokenizer files on this machine."""
    lab = LabFolder(lab_root)
    found = _source_folder(recipe.model.source, lab_root)
    for folder in (found, lab.quantized_dir, lab.onnx_dir):
        if folder is not None and (
            (folder / "tokenizer.json").is_file() or (folder / "tokenizer_config.json").is_file()
        ):
            return folder
    return None


def _source_folder(source: str, lab_root: Path) -> Path | None:
    from core.resources import REHEARSAL, rehearsal_model

    if source == REHEARSAL:
        return rehearsal_model()
    folder = Path(source).expanduser()
    folder = folder if folder.is_absolute() else lab_root / folder
    if folder.is_dir():
        return folder
    if re.fullmatch(r"[\w.-]+/[\w.-]+(?:@[\w./-]+)?", source):
        from huggingface_hub import try_to_load_from_cache

        name, _, revision = source.partition("@")
        for file in ("tokenizer.json", "tokenizer_config.json"):
            cached = try_to_load_from_cache(name, file, revision=revision or None)
            if isinstance(cached, str):
                return Path(cached).parent
    return None


def read_model_text(recipe: Recipe, lab_root: Path) -> ModelText:
    """The text side of the recipe's model; empty where the model is not on this machine."""
    folder = model_folder(recipe, lab_root)
    if folder is None:
        return ModelText()
    config = read_json(folder / "tokenizer_config.json")
    config = config if isinstance(config, dict) else {}
    path = folder / "tokenizer.json"
    content = read_json(path)
    added = content.get("added_tokens") if isinstance(content, dict) else None
    eos, bos = _token(config.get("eos_token")), _token(config.get("bos_token"))
    text = _template_text(folder, config)
    return ModelText(
        folder,
        path if isinstance(content, dict) else None,
        ChatTemplate(text, eos=eos, bos=bos) if text else None,
        eos,
        _special(added if isinstance(added, list) else []),
    )


def _token(value: Any) -> str:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _special(added: Sequence[Any]) -> tuple[str, ...]:
    found = set()
    for each in added:
        token = _token(each)
        if len(token) > 1 and (each.get("special") or _LIKE_SPECIAL.fullmatch(token)):
            found.add(token)
    return tuple(sorted(found, key=lambda token: (-len(token), token)))


def _template_text(folder: Path, config: dict[str, Any]) -> str:
    try:
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        pass
    value = config.get("chat_template")
    if isinstance(value, list):
        named = {each.get("name"): each.get("template") for each in value if isinstance(each, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else ""
