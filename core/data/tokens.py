"""Token counts and what they mean: distribution, epochs, padding."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from core.model.messages import Segment
from core.model.text import ModelText
from core.model.tokenizer import ModelTokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

BYTES_PER_TOKEN = 4.0
"""For the estimate where the model's tokenizer is not here: English text in a common vocabulary."""
_PADDING_ROWS = 100_000
COUNTED = 1_000_000
"""Characters of a row whose tokens are counted: a tokenizer takes a hundred bytes of memory for each."""


class TokenCounter:
    """Counts the tokens of rows as training makes them, or estimates them where the tokenizer is not here.

    Raises:
        RequestError: the file is no tokenizer.
    """

    def __init__(self, text: ModelText) -> None:
        self._tokenizer: ModelTokenizer | None = None
        if text.tokenizer_file is not None and text.folder is not None:
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
            self._tokenizer = ModelTokenizer.read(text.folder, text.ends)

    @property
    def estimated(self) -> bool:
        """True where no tokenizer is there, and counts are guessed from bytes."""
        return self._tokenizer is None

    def count(self, rows: Sequence[Sequence[Segment]]) -> list[int]:
        """Tokens of each row; of a very long one estimated from its beginning."""
        if self._tokenizer is not None:
            sizes = [sum(len(each.text) for each in row) for row in rows]
            begun = [
                row if size <= COUNTED else _beginning(row) for row, size in zip(rows, sizes, strict=True)
            ]
            found = self._tokenizer.lengths(begun)
            return [
                length if size <= COUNTED else length * size // COUNTED
                for length, size in zip(found, sizes, strict=True)
            ]
        bytes_of = (sum(len(each.text.encode("utf-8", "replace")) for each in row) for row in rows)
        return [max(1, round(size / BYTES_PER_TOKEN)) for size in bytes_of]


def _beginning(row: Sequence[Segment]) -> list[Segment]:
    """The segments of a row up to :data:`COUNTED` characters."""
    result: list[Segment] = []
    left = COUNTED
    for segment in row:
        if left <= 0:
            break
        result.append(replace(segment, text=segment.text[:left]))
        left -= len(segment.text)
    return result


@dataclass(frozen=True)
class TokenStats:
    """The lengths of all usable rows, in tokens.

    `histogram` holds (lowest, highest, rows) a bar; `lost` counts what `max_seq_len` cuts off.
    """

    total: int = 0
    p50: int = 0
    p95: int = 0
    max: int = 0
    lost: int = 0
    estimated: bool = False
    histogram: tuple[tuple[int, int, int], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def token_stats(lengths: NDArray[Any], limit: int, *, estimated: bool) -> TokenStats:
    """Statistics of lengths in tokens; percentiles are lengths that rows have (nearest rank)."""
    import numpy as np

    if not len(lengths):
        return TokenStats(estimated=estimated)
    p50, p95 = np.percentile(lengths, [50, 95], method="inverted_cdf")
    return TokenStats(
        int(lengths.sum(dtype=np.int64)),
        int(p50),
        int(p95),
        int(lengths.max()),
        int(np.maximum(lengths.astype(np.int64) - limit, 0).sum()),
        estimated,
        _bars(lengths),
    )


def _bars(lengths: NDArray[Any], most: int = 12) -> tuple[tuple[int, int, int], ...]:
    """At most `most` bars of a round width, from the shortest row to the longest; very long ones are in the last."""
    import numpy as np

    most = min(most, max(4, 2 * math.isqrt(len(lengths))))
    low, high = int(lengths.min()), int(np.percentile(lengths, 99.5, method="inverted_cdf"))
    step = max(1, (high - low) / most)
    scale = 10 ** int(np.log10(step))
    width = next(int(scale * times) for times in (1, 2, 5, 10) if scale * times >= step)
    start = low // width * width
    edges = list(range(start, high + 1, width))
    counts = np.bincount(
        np.minimum((lengths - start) // width, len(edges) - 1).astype(np.int64), minlength=len(edges)
    )
    tops = [edge + width - 1 for edge in edges]
    edges[0], tops[-1] = low, int(lengths.max())
    return tuple((edge, top, int(count)) for edge, top, count in zip(edges, tops, counts, strict=True))


def padding_share(lengths: NDArray[Any], limit: int, batch_size: int, seed: int) -> float:
    """The share of the tokens in batches that is padding, with batches formed as finetune forms them.

    One round through the rows; of very many rows a part is taken.
    """
    import numpy as np

    from core.data.batch_order import BatchOrder

    if not len(lengths):
        return 0.0
    cut = np.minimum(lengths, limit)
    if len(cut) > _PADDING_ROWS:
        cut = np.random.Generator(np.random.PCG64(seed)).choice(cut, _PADDING_ROWS, replace=False)
    sizes = cut.tolist()
    order = BatchOrder(sizes, batch_size, seed)
    batches = [[sizes[row] for row in order.batch(number)] for number in range(order.batches_a_round)]
    wide = sum(max(batch) * len(batch) for batch in batches)
    return float(1 - sum(map(sum, batches)) / wide)
