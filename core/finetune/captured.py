"""Training steps on short rows as CUDA graphs: a step of thousands of small kernels started by one call.

With short rows a GPU waits for the next kernel to be started most of the time. A graph has one shape, so batches are
padded to a few, chosen from those that the training will meet. The first batch of each shape is learnt the plain way as
well, and the two compared: where they differ, or nothing can be captured, all goes on the plain way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from core.events import Reporter
from core.finetune.rows import TokenBatch
from core.text import first_line

PRICE = 16
"""What a graph costs before it is of use, in average batches; its first one is learnt twice."""

LEAST_USES = 4
"""A shape that is met less often is not captured."""

LAUNCH_BOUND = 6e13
"""Float operations of a pass forward and backward below which a GPU waits for its kernels to be started."""

NEAR = 0.02
"""How far the gradient of a captured pass may be from that of a plain one, as a share of it: kernels that add in
another order each time, in bfloat16, are some thousandths apart."""

ROOM = 3
"""How many times what a batch takes must be free for it to be captured."""


@dataclass(frozen=True, order=True)
class Shape:
    """What a padded batch has: rows, tokens in each, and places where something is learnt."""

    rows: int
    width: int
    places: int

    @property
    def tokens(self) -> int:
        """All of them, padding too."""
        return self.rows * self.width

    def holds(self, other: Shape) -> bool:
        """Whether a batch of that shape can be padded to this."""
        return self.rows >= other.rows and self.width >= other.width and self.places >= other.places

    def joined(self, other: Shape) -> Shape:
        """The smallest shape that holds both."""
        return Shape(max(self.rows, other.rows), max(self.width, other.width), max(self.places, other.places))


class Shapes:
    """The few shapes to which the batches of a training are padded: little padding, few graphs.

    Args:
        met: the shape of each batch. All shapes are made of these alone, so that a training that goes on after a
            stop pads as before.
    """

    def __init__(self, met: Iterable[Shape]) -> None:
        # Places take little time beside tokens: those of batches of one size are made alike at once.
        uses: Counter[tuple[int, int]] = Counter()
        places: dict[tuple[int, int], int] = {}
        for shape in met:
            size = (shape.rows, -(-shape.width // 8) * 8)
            uses[size] += 1
            places[size] = max(places.get(size, 0), shape.places)
        self.uses = {Shape(rows, width, places[rows, width]): count for (rows, width), count in uses.items()}
        price = PRICE * sum(s.tokens * n for s, n in self.uses.items()) / max(1, sum(self.uses.values()))
        while (pair := self._best_pair(price)) is not None:
            one, other = pair
            count = self.uses.pop(one) + self.uses.pop(other)
            both = one.joined(other)
            self.uses[both] = self.uses.get(both, 0) + count

    def _best_pair(self, price: float) -> tuple[Shape, Shape] | None:
        """The two shapes that are best made one; None if none are."""
        best, gained = None, 0.0
        shapes = sorted(self.uses)
        for at, one in enumerate(shapes):
            for other in shapes[at + 1 :]:
                both = one.joined(other)
                more = (both.tokens - one.tokens) * self.uses[one]
                more += (both.tokens - other.tokens) * self.uses[other]
                if price - more > gained:
                    best, gained = (one, other), price - more
        return best

    def of(self, batch: Shape) -> Shape | None:
        """The smallest that holds a batch."""
        return min((s for s in self.uses if s.holds(batch)), key=lambda s: (s.tokens, s), default=None)


class Graphs:
    """The captured passes of a training.

    Args:
        learn: goes forward and backward on a batch, and adds to what ``sums`` are.
        sums: what a pass adds to, at the same place each time: the gradients in one tensor, and what is told.
        uses: how often each shape is met.
    """

    def __init__(
        self,
        learn: Callable[[TokenBatch], None],
        sums: Sequence[torch.Tensor],
        uses: dict[Shape, int],
        report: Reporter,
    ) -> None:
        self._learn, self._sums, self._uses, self._report = learn, sums, uses, report
        self._graphs: dict[Shape, tuple[torch.cuda.CUDAGraph, TokenBatch]] = {}
        self._stream = torch.cuda.Stream()
        self._pool = torch.cuda.graph_pool_handle()
        self.works = True

    def learn(self, batch: TokenBatch, seed: int) -> None:
        """Go forward and backward on a batch, by its shape's graph if there is to be one.

        Args:
            seed: what torch's random numbers were seeded with for this batch.
        """
        rows, width = batch.input_ids.shape
        shape = Shape(rows, width, len(batch.targets))
        if shape in self._graphs:
            graph, place = self._graphs[shape]
            for mine, its in (
                (place.input_ids, batch.input_ids),
                (place.places, batch.places),
                (place.targets, batch.targets),
            ):
                mine.copy_(its)
            graph.replay()
        elif self.works and self._uses.get(shape, 0) >= LEAST_USES:
            self._begin(shape, batch, seed)
        else:
            self._learn(batch)

    def _begin(self, shape: Shape, batch: TokenBatch, seed: int) -> None:
        """Learn a batch the plain way, capture its shape, and see whether the graph does the same."""
        place = TokenBatch(batch.input_ids.clone(), batch.places.clone(), batch.targets.clone(), batch.counts)
        before = [each.clone() for each in self._sums]
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._learn(place)  # on the same stream as the capture, as torch advises
        torch.cuda.current_stream().wait_stream(self._stream)
        taken = torch.cuda.max_memory_allocated() - held
        plain = [each.clone() for each in self._sums]
        free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        if free < ROOM * taken:
            self._give_up("there is too little free memory")
            return
        for mine, its in zip(self._sums, before, strict=True):
            mine.copy_(its)
        torch.manual_seed(seed)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                self._learn(place)
            torch.manual_seed(seed)
            graph.replay()
            apart = self._apart(before, plain)
        except RuntimeError as error:  # full memory too: the plain pass has just had enough of it
            apart, why = float("inf"), first_line(error)
        else:
            why = f"a captured step is {apart:.1%} from a plain one"
        if apart <= NEAR:
            self._graphs[shape] = graph, place
            return
        for mine, its in zip(self._sums, plain, strict=True):
            mine.copy_(its)
        self._give_up(why)

    def _apart(self, before: list[torch.Tensor], plain: list[torch.Tensor]) -> float:
        """How far what the graph added is from what the plain pass added, as a share of it."""
        shares = [
            (mine - its).norm() / (its - was).norm().clamp(min=1e-30)
            for mine, its, was in zip(self._sums, plain, before, strict=True)
        ]
        apart: float = torch.stack(shares).nan_to_num(nan=float("inf")).max().item()
        return apart

    def _give_up(self, why: str) -> None:
        self.works = False
        self._report.log(f"Steps are not captured as CUDA graphs from here on: {why}.")
