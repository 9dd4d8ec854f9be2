"""Rows that say nearly the same, found among millions; and what a text says, however it is written."""

from __future__ import annotations

import re
import tempfile
import unicodedata
import weakref
import zlib
from collections.abc import Iterator
from hashlib import blake2b
from typing import IO, TYPE_CHECKING, Any

# Scripts without spaces between words are taken sign by sign: kana, CJK, Thai, Lao, Myanmar, Khmer.
_SIGNS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_WORD = re.compile(rf"[{_SIGNS}]|[^\W_{_SIGNS}]+")
COMPARED = 1 << 18
"""Characters of a text whose words are compared with others'."""


def _set(*lines: str) -> frozenset[str]:
    return frozenset(word for line in lines for word in line.split())


# Words that ask or bind and do not say what about, in English, Vietnamese, Persian and some neighbours.
FUNCTION_WORDS = _set(
    "a an the and or but of in on at to for from by with about into as is are was were be been",
    "am do does did",
    "can could should would will shall may might must i me my we us our you your he she it its",
    "they them their",
    "this that these those there here what which who whom whose when where why how if then than",
    "so some any",
    "please tell give let s t re ll ve d m not no yes have has had get go want need like also",
    "just very more most",
    "là gì ở nào có thể tôi nên được không và của cho những các một thì mà bao nhiêu đâu khi",
    "như thế hãy ạ bạn",
    "mình với đến từ trong này đó sao vì cái xin ai sẽ đã đang cần muốn về tại",
    "چه چی کجا کی آیا در به از را که و است هست می من برای با این آن یک چیست کدام چطور چگونه",
    "باید توانم کنم ها های",
    "شما ما لطفا بگو کن شود دارد یا تا هم بر چرا",
    "le la les un une des du de et ou à au aux en dans sur pour par avec est sont que qui quoi",
    "quel quelle",
    "quels quelles où quand comment pourquoi je tu il elle nous vous ils elles mon ma mes dois",
    "puis peut",
    "der die das ein eine einen einem und oder in im auf zu für von mit ist sind was wer wo",
    "wann wie warum ich du",
    "er sie wir ihr mein kann soll",
    "el los las una unos y o a al en por para con es son qué que quién dónde cuándo cómo cuál",
    "yo tú",
)


def plain(text: str) -> str:
    """The text with one form for each letter, no case, and single spaces: equal texts compare equal."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def words(text: str) -> list[str]:
    """The words of a plain text, as far as it is compared, in order; signs one by one for scripts without spaces."""
    return _WORD.findall(text, 0, COMPARED)


def content_words(text: str) -> list[str]:
    """The words that say what a question is about: no function words, no English plural.

    All words, where nothing else is left.
    """
    found = words(text)
    kept = [_stem(word) for word in found if word not in FUNCTION_WORDS]
    return kept or found


def _stem(word: str) -> str:
    if len(word) > 3 and word[-1] == "s" and word[-2] not in "su" and word.isascii():
        return word[:-1]
    return word


def word_hashes(found: list[str], text: str) -> list[int]:
    """A 32-bit hash for each word; for a text without words, one for the text."""
    if not found:
        return [zlib.crc32(text.encode("utf-8", "replace"))]
    return [zlib.crc32(word.encode("utf-8", "replace")) for word in found]


def text_key(text: str) -> int:
    """A 64-bit hash of a plain text, the same on every machine."""
    return int.from_bytes(blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little")


if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MINIMA = 32
BANDS = 8
IN_BAND = MINIMA // BANDS
EXACT_WORDS = 2_000_000
"""Hashes of words kept for measuring pairs exactly; with more, minima are used."""
_BATCH = 1024
_IN_MEMORY = 1 << 22
_CHUNK = 1 << 16


class Store:
    """An array that grows; beyond 4 MiB it lies in a temporary file."""

    def __init__(self, dtype: str) -> None:
        self._dtype = dtype
        self._parts: list[bytes] = []
        self._size = 0
        self._file: IO[bytes] | None = None

    def add(self, values: NDArray[Any]) -> None:
        """Append values (of any shape; they are kept flat)."""
        data = values.astype(self._dtype, copy=False).tobytes()
        self._size += len(data)
        if self._file is None and self._size > _IN_MEMORY:
            self._file = tempfile.TemporaryFile(prefix="olivepress-")  # noqa: SIM115 - lives as long as the store
            weakref.finalize(self, self._file.close)
            self._file.writelines(self._parts)
            self._parts.clear()
        if self._file is not None:
            self._file.write(data)
        else:
            self._parts.append(data)

    def array(self) -> NDArray[Any]:
        """All values, flat; mapped from the file where there is one."""
        import numpy as np

        if self._file is None:
            return np.frombuffer(b"".join(self._parts), dtype=self._dtype)
        self._file.flush()
        return np.memmap(self._file, dtype=self._dtype, mode="r")

    def close(self) -> None:
        """Forget everything."""
        self._parts.clear()
        if self._file is not None:
            self._file.close()


class Sketches:
    """The sketches of texts, added one by one as lists of word hashes.

    MinHash with locality-sensitive hashing (A. Broder, "On the resemblance and containment of documents",
    1997; J. Leskovec, A. Rajaraman, J. Ullman, "Mining of Massive Datasets", chapter 3): 32 minima a text,
    eight bands of four. Two texts whose word sets overlap by a share J (Jaccard) meet in a band with
    probability 1 - (1 - J^4)^8: 0.98 at J = 0.8, 0.40 at J = 0.5. Pairs that meet are then measured: on the
    word sets themselves for files of ordinary size, else on the 32 minima (standard error 0.07 at 0.8).
    64 bytes a text are kept, on disk beyond 4 MiB a store.

    Args:
        pairs: take neighbouring words together as well, so that order counts.
    """

    def __init__(self, *, pairs: bool) -> None:
        import numpy as np

        self._pairs = pairs
        self._waiting: list[list[int]] = []
        self._bands = [Store("<u4") for _ in range(BANDS)]
        self._minima = Store("u1")
        self._exact: list[NDArray[np.uint64]] | None = []
        self._exact_size = 0
        draw = np.random.Generator(np.random.PCG64(20))
        self._factors = draw.integers(0, 1 << 63, MINIMA, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, hashes: list[int]) -> None:
        """Add a text; `hashes` is not empty."""
        self._waiting.append(hashes)
        self._count += 1
        if len(self._waiting) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        import numpy as np

        if not self._waiting:
            return
        lengths = np.fromiter(map(len, self._waiting), dtype=np.int64, count=len(self._waiting))
        flat = np.fromiter(
            (h for row in self._waiting for h in row), dtype=np.uint64, count=int(lengths.sum())
        )
        self._waiting.clear()
        mixed = (flat + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
        starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
        features = mixed
        if self._pairs:
            # A word and its follower make one more feature; the last word of a text stands alone again.
            follower = np.roll(mixed, -1)
            follower[starts + lengths - 1] = 0
            joined = (mixed * np.uint64(3) ^ follower) * np.uint64(0xBF58476D1CE4E5B9)
            features = np.concatenate((mixed, joined ^ (joined >> np.uint64(31))))
            order = np.argsort(
                np.concatenate((np.repeat(np.arange(len(lengths)), lengths),) * 2), kind="stable"
            )
            features, starts, lengths = features[order], starts * 2, lengths * 2
        minima = np.empty((len(lengths), MINIMA), dtype=np.uint32)
        for index, factor in enumerate(self._factors):
            minima[:, index] = np.minimum.reduceat((features * factor) >> np.uint64(32), starts)
        self._keep(features, starts, lengths, minima)

    def _keep(self, features: Any, starts: Any, lengths: Any, minima: Any) -> None:
        import numpy as np

        for band, store in enumerate(self._bands):
            part = minima[:, band * IN_BAND : (band + 1) * IN_BAND].astype(np.uint64)
            key = np.zeros(len(part), dtype=np.uint64)
            for column in range(IN_BAND):
                key = (key ^ part[:, column]) * np.uint64(0x9E3779B97F4A7C15)
                key ^= key >> np.uint64(32)
            store.add(key.astype(np.uint32))
        self._minima.add((minima & np.uint32(0xFF)).astype(np.uint8))
        self._exact_size += len(features)
        if self._exact is not None and self._exact_size <= EXACT_WORDS:
            self._exact += [np.unique(part) for part in np.split(features, starts[1:])]
        else:
            self._exact = None

    def pairs(self, threshold: float) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Pairs of texts that overlap by at least `threshold`, as (earlier, later) arrays of indices.

        A pair may come more than once. Of a crowd of like texts not every pair comes, but each
        text comes with the first of them or with the one before it.
        """
        import numpy as np

        self._flush()
        if self._count < 2:
            return
        minima = self._minima.array().reshape(-1, MINIMA)
        for store in self._bands:
            keys = store.array()
            order = np.argsort(keys, kind="stable").astype(np.uint32)
            ordered = keys[order]
            same = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
            if not len(same):
                continue
            first = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
            leader = first[np.searchsorted(first, same, side="right") - 1]
            for at in range(0, len(same), _CHUNK):
                here = same[at : at + _CHUNK]
                later = order[here].astype(np.int64)
                lead = order[leader[at : at + _CHUNK]].astype(np.int64)
                before = order[here - 1].astype(np.int64)
                left, right = np.concatenate((lead, before)), np.concatenate((later, later))
                keep = self.near(left, right, threshold, minima)
                if keep.any():
                    yield left[keep], right[keep]

    def near(self, left: Any, right: Any, threshold: float, minima: Any = None) -> NDArray[np.bool_]:
        """For pairs of indices: do their word sets overlap by at least `threshold`?"""
        import numpy as np

        if minima is None:
            self._flush()
            minima = self._minima.array().reshape(-1, MINIMA)
        alike = (minima[left] == minima[right]).mean(axis=1)
        if self._exact is None:
            return np.asarray(alike >= threshold)
        result = alike >= max(0.0, threshold - 0.35)
        for place in np.flatnonzero(result):
            a, b = self._exact[int(left[place])], self._exact[int(right[place])]
            common = len(np.intersect1d(a, b, assume_unique=True))
            result[place] = common >= threshold * (len(a) + len(b) - common)
        return np.asarray(result)

    def clusters(self, threshold: float) -> NDArray[np.int64]:
        """For each text the index of the first text of its cluster: texts joined by near pairs."""
        import numpy as np

        parent = np.arange(self._count, dtype=np.int64)

        def root(index: int) -> int:
            while parent[index] != index:
                parent[index] = parent[parent[index]]
                index = int(parent[index])
            return index

        for left, right in self.pairs(threshold):
            for a, b in zip(left.tolist(), right.tolist(), strict=True):
                one, other = root(a), root(b)
                if one != other:
                    parent[max(one, other)] = min(one, other)
        while True:
            up = parent[parent]
            if np.array_equal(up, parent):
                return parent
            parent = up

    def close(self) -> None:
        """Forget everything."""
        for store in (*self._bands, self._minima):
            store.close()
