"""Which rows of a lab are held out, as it was remembered: for showing them, without numpy."""

from __future__ import annotations

import base64
import sys
from array import array
from bisect import bisect_left
from pathlib import Path

from core.data.split import SPLIT_FILE
from core.data.words import plain, text_key
from core.files import read_json
from core.recipe import Recipe


class HeldOut:
    """The questions that `data_split.json` of a lab has on the held-out side, for its recipe.

    Empty where there is no such memory yet, or where it is of another seed or fraction: the next
    survey divides the rows anew then.
    """

    def __init__(self, lab_root: Path, recipe: Recipe) -> None:
        self._keys = array("Q")
        stored = read_json(lab_root / SPLIT_FILE)
        files = stored.get("files") if isinstance(stored, dict) else None
        entry = files.get(recipe.data.file) if isinstance(files, dict) else None
        if not isinstance(entry, dict):
            return
        if (entry.get("seed"), entry.get("fraction")) != (recipe.data.seed, recipe.data.eval_fraction):
            return
        try:
            self._keys.frombytes(base64.b64decode(entry["eval"]))
        except (KeyError, ValueError, TypeError):
            self._keys = array("Q")
        if sys.byteorder == "big":
            self._keys.byteswap()

    def __len__(self) -> int:
        return len(self._keys)

    def holds(self, prompt: str) -> bool:
        """Whether a row with this question is held out."""
        if not self._keys:
            return False
        key = text_key(plain(prompt))
        place = bisect_left(self._keys, key)
        return place < len(self._keys) and self._keys[place] == key
