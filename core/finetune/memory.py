"""How much memory a finetune needs, which way of training fits, and what would fit instead.

Pure arithmetic on a model's ``config.json``: no torch, so that the check step can use it too.

There are two ways to train on a quantized base. ``low`` keeps the weights packed, unpacks each for
every use, and recomputes each layer's activations in the backward pass (gradient checkpointing,
Chen et al. 2016, arXiv:1604.06174). ``fast`` unpacks the weights once and recomputes only as many
layers as must be for the rest to fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from core.errors import Use
from core.formats import human_bytes
from core.language import told
from core.model.folder import ModelFacts

Way = Literal["fast", "low"]

LOGITS_AT_ONCE = 32 * 1024 * 1024
"""Elements of logits computed at once; the loss goes through its positions in chunks of this size."""

TEXTS_AT_ONCE = {"sft": 1, "dpo": 2, "orpo": 2, "kto": 1}
"""Texts that are learnt from at once for a row, by the objective."""

SPARE = 0.06
"""Share of the free memory left for the allocator's holes and the libraries' workspaces."""

CLEARLY = 0.15
"""How much less than a run that failed a suggestion must need."""


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes by what they are for."""

    weights: int
    adapter: int
    activations: int
    working: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.adapter + self.activations + self.working


@dataclass(frozen=True)
class MemoryPlan:
    """The way of training that was chosen.

    Attributes:
        recomputed: layers whose activations are computed again in the backward pass.
        need, free: of one GPU; where the layers are spread, of the one with the least to spare.
        fits: whether the estimate is within the free memory.
        reason: a sentence for the log and the result.
        spread: how many layers each GPU has, where they are spread; empty where one has all of them.
    """

    way: Way
    recomputed: int
    need: MemoryNeed
    free: int
    fits: bool
    reason: str
    spread: tuple[int, ...] = ()


@dataclass(frozen=True)
class TrainingSize:
    """What decides how much memory a training takes.

    Attributes:
        facts: of the base.
        batch, length: rows in a batch and tokens in its longest row.
        number_bytes: of a float weight or activation: 2 in bfloat16 (GPU), 4 in float32 (CPU).
        dropout: whether there is dropout in front of the adapter.
    """

    facts: ModelFacts
    rank: int
    batch: int
    length: int
    number_bytes: int = 2
    dropout: bool = False

    def need(self, way: Way = "low", recomputed: int | None = None) -> MemoryNeed:
        """Memory at the highest point of a training step, in bytes.

        Args:
            recomputed: layers whose activations are computed again; None: all for ``low``, none for ``fast``.
        """
        facts, size, tokens = self.facts, self.number_bytes, self.batch * self.length
        hidden, middle, layers = facts.hidden_size, facts.intermediate_size, facts.layers
        vocabulary = facts.vocab_size or 32000
        if recomputed is None:
            recomputed = layers if way == "low" else 0
        if way == "low" and facts.bits is not None:
            group = facts.group_size if facts.group_size > 0 else hidden
            # Each group has a scale and a zero point beside its weights.
            linear = facts.linear_numbers * (facts.bits / 8 + (size + facts.bits / 8) / group)
            unpacking = max(inputs * outputs for inputs, outputs in facts.linears) * (2 * size + 2)
            head = vocabulary * hidden * size
        else:
            linear, unpacking, head = facts.linear_numbers * size, 0, 0

        numbers = facts.adapter_numbers(self.rank)
        # A float32 master, its gradient and Adam's two moments; and a copy in the model's dtype.
        adapter = numbers * 16 + (0 if size == 4 else numbers * size)

        q, kv = facts.attention_outputs
        # The two norms keep their input in float32; then q, k, v before and after the rotation, the
        # attention's result, the inputs of the linear layers, and gate, up, silu(gate) and their product.
        kept = 8 * hidden + size * (2 * hidden + 3 * q + 3 * kv + 4 * middle)
        if self.dropout:
            # In front of each adapter matrix, what is left of its input and the mask of what was dropped.
            kept += (size + 1) * sum(inputs for inputs, _ in facts.linears)
        boundaries = size * hidden * tokens * recomputed
        one_layer = (kept * tokens if recomputed else 0) + size * 4 * middle * tokens
        logits = min(LOGITS_AT_ONCE, tokens * vocabulary) * (12 + size)
        return MemoryNeed(
            weights=int(linear) + facts.end_numbers * size,
            adapter=adapter,
            activations=kept * tokens * (layers - recomputed) + boundaries,
            working=max(one_layer + unpacking, logits + head) + 4 * size * hidden * tokens,
        )

    def plan(self, free: int, memory: str = "auto") -> MemoryPlan:
        """The fastest way that fits into ``free`` bytes; ``low`` if none does.

        Args:
            memory: ``auto``, or the way that the recipe insists on: ``fast`` (then only the number of
                recomputed layers is chosen) or ``low``.
        """
        layers, usable = self.facts.layers, int(free * (1 - SPARE))

        def planned(way: Way, recomputed: int) -> MemoryPlan:
            need = self.need(way, recomputed)
            reason = told(
                "{how}; about {need} of {free} free",
                how=self._how(way, recomputed),
                need=human_bytes(need.total),
                free=human_bytes(free),
            )
            return MemoryPlan(way, recomputed, need, free, need.total <= usable, reason)

        if memory != "low":
            for recomputed in range(layers + 1):
                if (plan := planned("fast", recomputed)).fits:
                    return plan
            if memory == "fast":
                return plan
        return planned("low", layers)

    def _how(self, way: Way, recomputed: int) -> str:
        how = told("weights as they are")
        if self.facts.bits is not None:
            how = told("weights unpacked once") if way == "fast" else told("weights unpacked at each use")
        if not recomputed:
            return told("{way}: {how}, nothing recomputed", way=way, how=how)
        return told(
            "{way}: {how}, {recomputed} of {layers} layers recomputed in the backward pass",
            way=way,
            how=how,
            recomputed=recomputed,
            layers=self.facts.layers,
        )

    def spread(self, free: Sequence[int], memory: str = "auto") -> MemoryPlan:
        """The fastest way that fits with the layers spread over GPUs with so many free bytes; ``low`` if none does.

        The first GPU has all that is not a layer, too. Each layer goes to the one with the most to spare.
        """
        layers = self.facts.layers
        ways: list[tuple[Way, int]] = [("fast", 0), ("fast", layers), ("low", layers)]
        plans = (self._spread(free, *way) for way in ways if memory in ("auto", way[0]))
        plan = next(plans)
        for other in plans:
            if plan.fits:
                break
            plan = other
        return plan

    def _spread(self, free: Sequence[int], way: Way, recomputed: int) -> MemoryPlan:
        whole, layers = self.need(way, recomputed), self.facts.layers
        ends = self.facts.end_numbers * self.number_bytes

        def part(at: int, count: int) -> MemoryNeed:
            """What the GPU at this place needs with so many layers."""
            share = [
                -(-(each * count) // layers)
                for each in (whole.weights - ends, whole.adapter, whole.activations)
            ]
            return MemoryNeed(share[0] + (0 if at else ends), share[1], share[2], whole.working)

        counts = [0] * len(free)

        def left(at: int, more: int = 0) -> float:
            return free[at] * (1 - SPARE) - part(at, counts[at] + more).total

        for _ in range(layers):
            # With it, and not before it: one without a layer needs nothing but for the first.
            counts[max(range(len(free)), key=lambda at: left(at, 1))] += 1
        used = [at for at, count in enumerate(counts) if count or at == 0]
        least = min(used, key=left)
        need = part(least, counts[least])
        reason = told(
            "{how}, layers on {gpus} GPUs ({counts}); about {need} of {free} free on GPU {gpu}",
            how=self._how(way, recomputed),
            gpus=len(used),
            counts=", ".join(map(str, counts)),
            need=human_bytes(need.total),
            free=human_bytes(free[least]),
            gpu=least,
        )
        return MemoryPlan(way, recomputed, need, free[least], left(least) >= 0, reason, tuple(counts))

    def what_fits(self, free: int | Sequence[int], failed: int | None = None) -> list[Use]:
        """Smaller settings that should fit into ``free`` bytes, or, with several numbers, spread over such GPUs.

        Args:
            failed: the estimate for a run that ran out of memory. Where it had seemed to fit, the estimate was
                too low, or others took memory meanwhile: then what is suggested needs clearly less than that.

        Each suggestion changes one key alone where that is enough; else the three are made small
        together. Empty where nothing fits.
        """
        most = float("inf") if failed is None else failed * (1 - CLEARLY)

        def fits(rank: int = self.rank, batch: int = self.batch, length: int = self.length) -> bool:
            smaller = replace(self, rank=rank, batch=batch, length=length)
            plan = smaller.plan(free, "low") if isinstance(free, int) else smaller.spread(free, "low")
            return plan.fits and plan.need.total <= most

        found = []
        if batch := _largest(self.batch - 1, lambda value: fits(batch=value)):
            found.append(Use("finetune.batch_size", batch))
        if (length := _largest(self.length - 1, lambda value: fits(length=value))) >= 16:
            found.append(Use("data.max_seq_len", length // 8 * 8))
        if rank := _largest(self.rank - 1, lambda value: fits(rank=value)):
            found.append(Use("finetune.rank", rank))
        if found:
            return found
        short = min(self.length, 512)
        for r, n in ((self.rank, short), (min(self.rank, 16), short), (8, 128)):
            if fits(rank=r, batch=1, length=n):
                return [Use("finetune.rank", r, (("finetune.batch_size", 1), ("data.max_seq_len", n)))]
        return []


def spread_if_needed(
    size: TrainingSize, share: int, free: Sequence[int], memory: str = "auto"
) -> MemoryPlan | None:
    """The plan with the layers spread over GPUs, where none of them has room for the whole base and all together do.

    Args:
        size: of the training in one process.
        share: rows that a GPU has at once where each holds the whole base.
        free: bytes free on each.
    """
    if replace(size, batch=share).plan(min(free), memory).fits:
        return None
    plan = size.spread(free, memory)
    return plan if plan.fits else None


def _largest(high: int, fits: Callable[[int], bool]) -> int:
    """The largest number from 1 to ``high`` that fits, 0 if none; ``fits`` is monotone."""
    low = 0
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low
