"""Which rows are held out: chosen by what they say and a seed, and remembered with the lab.

Rows whose questions use the same words, but for order, case, small words and endings, stand on one
side. Rows that only share their answer or their place may stand on both: from such relatives the
held-out part can be learnt, and a model that has learnt them is measured on a question it has not seen.

`data_split.json` in the lab keeps which side each row stands on, by a hash of its question. Rows that
are added later are divided anew; the old ones never change sides.
"""

from __future__ import annotations

import base64
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.data.similar import Sketches, content_words, plain, text_key, word_hashes
from core.errors import MachineError
from core.files import read_json, write_json
from core.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SPLIT_FILE = "data_split.json"
SAME_QUESTION = 0.8
"""Share of the content words (Jaccard) from which two questions count as one in other words."""
_VERSION = 1


class Splitter:
    """Takes the rows of a file in order, then says which of them are held out."""

    def __init__(self) -> None:
        self.sketches = Sketches(pairs=False)
        self._keys = array("Q")
        self._fixed = array("b")

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, prompt: str, *, held_out: bool | None = None) -> None:
        """Add a row. `held_out` is given where the file it stands in decides."""
        text = plain(prompt)
        self.sketches.add(word_hashes(content_words(text), text))
        self._keys.append(text_key(text))
        self._fixed.append(-1 if held_out is None else int(held_out))

    @property
    def by_files(self) -> bool:
        """Whether the files decide which rows are held out."""
        return len(self._fixed) > 0 and self._fixed[0] >= 0

    @property
    def keys(self) -> NDArray[np.uint64]:
        """A 64-bit hash of each row's question."""
        import numpy as np

        return np.frombuffer(self._keys, dtype=np.uint64) if len(self._keys) else np.empty(0, dtype=np.uint64)

    def assign(self, fraction: float, seed: int, known: Sides | None = None) -> NDArray[np.bool_]:
        """True for each row that is held out.

        The order of the rows does not matter. With two questions or more and a `fraction` above
        zero at least one is held out, and at least one is not.

        Args:
            fraction: the share of the rows to hold out.
            seed: another seed, another choice.
            known: the sides of an earlier call.
        """
        import numpy as np

        count = len(self)
        if self.by_files:
            return np.asarray(np.frombuffer(self._fixed, dtype=np.int8) == 1)
        side = np.full(count, -1, dtype=np.int8)
        if known is not None:
            side[np.isin(self.keys, known.train)] = 0
            side[np.isin(self.keys, known.eval)] = 1
        roots = self.sketches.clusters(SAME_QUESTION)
        # A cluster with rows of a known side draws its new rows to it, to the held-out side first.
        drawn = np.full(count, -1, dtype=np.int8)
        for value in (0, 1):
            drawn[roots[side == value]] = value
        side = np.where(side >= 0, side, drawn[roots]).astype(np.int8)
        free = np.flatnonzero(side < 0)
        wanted = round(fraction * count)
        if fraction > 0:
            # One question, however often it is asked, is to learn from.
            wanted = min(max(1, wanted), count - 1) if len(np.unique(roots)) > 1 else 0
        wanted -= int((side == 1).sum())
        left = count - int((side == 1).sum())
        side[free] = 0
        smallest: NDArray[np.int64] | None = None
        for members in _lots(self.keys, roots, free, seed):
            if wanted <= 0:
                break
            if smallest is None or len(members) < len(smallest):
                smallest = members
            # A crowd that would overshoot by far is passed over while there are smaller ones.
            if len(members) <= max(1, wanted + wanted // 4) and len(members) < left:
                side[members] = 1
                wanted -= len(members)
                left -= len(members)
        if fraction > 0 and smallest is not None and not (side == 1).any() and 2 * len(smallest) <= count:
            side[smallest] = 1  # a file of few questions, each asked often
        return np.asarray(side == 1)


def _lots(keys: Any, roots: Any, free: Any, seed: int) -> Iterable[NDArray[np.int64]]:
    """The clusters of the free rows, in an order that hangs on their words and the seed only."""
    import numpy as np

    if not len(free):
        return
    mixed = (
        keys[free] ^ np.uint64((seed * 0x9E3779B97F4A7C15 + 0x1D8E4E27C47D124F) % (1 << 64))
    ) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(31)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(29)
    clusters, inverse = np.unique(roots[free], return_inverse=True)
    lot = np.full(len(clusters), np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(lot, inverse, mixed)
    order = np.argsort(inverse, kind="stable")
    ends = np.cumsum(np.bincount(inverse, minlength=len(clusters)))
    for cluster in np.argsort(lot, kind="stable"):
        start = 0 if cluster == 0 else ends[cluster - 1]
        yield free[order[start : ends[cluster]]]


class Sides:
    """The rows of an earlier split, as sorted hashes of their questions."""

    def __init__(self, train: NDArray[np.uint64], held_out: NDArray[np.uint64]) -> None:
        self.train = train
        self.eval = held_out


def _packed(keys: Any) -> str:
    return base64.b64encode(keys.astype("<u8").tobytes()).decode()


def _unpacked(text: str) -> NDArray[np.uint64]:
    import numpy as np

    return np.frombuffer(base64.b64decode(text), dtype="<u8")


def _remembered(lab_root: Path, recipe: Recipe) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What a lab remembers of each of its files, and of the recipe's; None where seed or fraction is another.

    Raises:
        RequestError: the memory is damaged.
    """
    stored = read_json(lab_root / SPLIT_FILE)
    files = stored.get("files") if isinstance(stored, dict) and stored.get("v") == _VERSION else None
    files = files if isinstance(files, dict) else {}
    entry = files.get(recipe.data.file)
    wanted = (recipe.data.seed, recipe.data.eval_fraction)
    if not isinstance(entry, dict) or (entry.get("seed"), entry.get("fraction")) != wanted:
        return files, None
    return files, entry


def split_rows(splitter: Splitter, recipe: Recipe, lab_root: Path) -> NDArray[np.bool_]:
    """The held-out rows of a recipe, by the lab's memory and then by lot; the memory is brought up to date.

    A changed seed or fraction, or a file of which less than half is known, starts anew. A lab that
    cannot be written remembers nothing, and its split is still the same each time.

    Raises:
        RequestError: the memory is damaged: a new lot could train on rows that were held out.
    """
    import numpy as np

    data = recipe.data
    if splitter.by_files:
        return splitter.assign(data.eval_fraction, data.seed)
    files, entry = _remembered(lab_root, recipe)
    known = None
    keys = splitter.keys
    if entry is not None:
        try:
            known = Sides(_unpacked(entry["train"]), _unpacked(entry["eval"]))
        except (KeyError, ValueError, TypeError):
            known = None
        else:
            old = np.concatenate((known.train, known.eval))
            if 2 * int(np.isin(old, keys).sum()) < len(old):
                known = None
    result = splitter.assign(data.eval_fraction, data.seed, known)
    train, held_out = np.unique(keys[~result]), np.unique(keys[result])
    if known is not None:
        held_out = np.union1d(known.eval, held_out)
        train = np.setdiff1d(np.union1d(known.train, train), held_out)
    fresh = {
        "seed": data.seed,
        "fraction": data.eval_fraction,
        "train": _packed(train),
        "eval": _packed(held_out),
    }
    if fresh != entry and len(keys) and lab_root.is_dir():
        try:
            write_json(lab_root / SPLIT_FILE, {"v": _VERSION, "files": {**files, data.file: fresh}})
        except (MachineError, OSError):
            return result
    return result


class HeldOut:
    """The questions that `data_split.json` of a lab has on the held-out side, for its recipe.

    Empty where there is no such memory yet, or where it is of another seed or fraction: the next
    survey divides the rows anew then.
    """

    def __init__(self, lab_root: Path, recipe: Recipe) -> None:
        self._keys = array("Q")
        _, entry = _remembered(lab_root, recipe)
        if entry is None:
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
