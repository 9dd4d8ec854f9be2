"""How much memory a finetune needs, which way of training fits, and what would fit instead.

Pure arithmetic on a model's ``config.json``: no torch, so that the check step can use it too.

There are two ways to train on a quantized base. ``low`` keeps the weights packed, unpacks each for
every use, and recomputes each layer's activations in the backward pass (gradient checkpointing,
Chen et al. 2016, arXiv:1604.06174). ``fast`` unpacks the weights once and recomputes only as many
layers as must be for the rest to fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from core.formats import human_bytes
from core.model.shape import Shape

Way = Literal["fast", "low"]

LOGITS_AT_ONCE = 32 * 1024 * 1024
"""Elements of logits computed at once; the loss goes through its positions in chunks of this size."""

SPARE = 0.06
"""Share of the free memory left for the allocator's holes and the libraries' workspaces."""

CLEARLY = 0.15
"""How much less than a run that failed a suggestion must need."""


@dataclass(frozen=True)
class Need:
    """Bytes by what they are for."""

    weights: int
    adapter: int
    activations: int
    working: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.adapter + self.activations + self.working


def estimate_memory(
    shape: Shape,
    *,
    rank: int,
    batch: int,
    length: int,
    way: Way = "low",
    recomputed: int | None = None,
    number_bytes: int = 2,
    dropout: bool = False,
) -> Need:
    """Memory at the highest point of a training step, in bytes.

    Args:
        batch, length: rows in a batch and tokens in its longest row.
        recomputed: layers whose activations are computed again; None: all for ``low``, none for ``fast``.
        number_bytes: of a float weight or activation: 2 in bfloat16 (GPU), 4 in float32 (CPU).
        dropout: whether there is dropout in front of the adapter.
    """
    if recomputed is None:
        recomputed = shape.layers if way == "low" else 0
    size, tokens = number_bytes, batch * length
    per_layer = sum(inputs * outputs for inputs, outputs in shape.linears)
    embeddings = shape.vocab * shape.hidden * (1 if shape.tied else 2) * size
    if way == "low" and shape.bits is not None:
        group = shape.group_size if shape.group_size > 0 else shape.hidden
        # Each group has a scale and a zero point beside its weights.
        linear = per_layer * (shape.bits / 8 + (size + shape.bits / 8) / group)
        biggest = max(inputs * outputs for inputs, outputs in shape.linears)
        unpacking = biggest * (2 * size + 2)
        head = shape.vocab * shape.hidden * size
    else:
        linear, unpacking, head = per_layer * size, 0, 0

    numbers = shape.adapter_numbers(rank)
    # A float32 master, its gradient and Adam's two moments; and a copy in the model's dtype.
    adapter = numbers * 16 + (0 if size == 4 else numbers * size)

    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    # The two norms keep their input in float32; then q, k, v before and after the rotation, the
    # attention's result, the inputs of the linear layers, and gate, up, silu(gate) and their product.
    kept = 8 * shape.hidden + size * (2 * shape.hidden + 3 * q + 3 * kv + 4 * shape.intermediate)
    if dropout:
        # In front of each adapter matrix, what is left of its input and the mask of what was dropped.
        kept += (size + 1) * sum(inputs for inputs, _ in shape.linears)
    kept_all = kept * tokens * (shape.layers - recomputed)
    boundaries = size * shape.hidden * tokens * recomputed
    one_layer = (kept * tokens if recomputed else 0) + size * 4 * shape.intermediate * tokens
    logits = min(LOGITS_AT_ONCE, tokens * shape.vocab) * (12 + size)
    return Need(
        weights=int(linear * shape.layers) + embeddings,
        adapter=adapter,
        activations=kept_all + boundaries,
        working=max(one_layer + unpacking, logits + head) + 4 * size * shape.hidden * tokens,
    )


@dataclass(frozen=True)
class Plan:
    """The way of training that was chosen.

    Attributes:
        recomputed: layers whose activations are computed again in the backward pass.
        fits: whether the estimate is within the free memory.
        reason: a sentence for the log and the result.
    """

    way: Way
    recomputed: int
    need: Need
    free: int
    fits: bool
    reason: str


def plan_memory(
    shape: Shape,
    free: int,
    *,
    rank: int,
    batch: int,
    length: int,
    memory: str = "auto",
    number_bytes: int = 2,
    dropout: bool = False,
) -> Plan:
    """Choose the fastest way that fits into ``free`` bytes; ``low`` if none does.

    Args:
        memory: ``auto``, or the way that the recipe insists on: ``fast`` (then only the number of
            recomputed layers is chosen) or ``low``.
    """
    usable = int(free * (1 - SPARE))

    def need(way: Way, recomputed: int) -> Need:
        return estimate_memory(
            shape,
            rank=rank,
            batch=batch,
            length=length,
            way=way,
            recomputed=recomputed,
            number_bytes=number_bytes,
            dropout=dropout,
        )

    def said(way: Way, recomputed: int) -> Plan:
        wanted = need(way, recomputed)
        dense = "weights unpacked once" if shape.bits is not None else "weights as they are"
        packed = "weights unpacked at each use" if shape.bits is not None else "weights as they are"
        again = (
            "nothing recomputed"
            if recomputed == 0
            else f"{recomputed} of {shape.layers} layers recomputed in the backward pass"
        )
        reason = (
            f"{way}: {dense if way == 'fast' else packed}, {again}; "
            f"about {human_bytes(wanted.total)} of {human_bytes(free)} free"
        )
        return Plan(way, recomputed, wanted, free, wanted.total <= usable, reason)

    if memory != "low":
        for recomputed in range(shape.layers + 1):
            if need("fast", recomputed).total <= usable:
                return said("fast", recomputed)
        if memory == "fast":
            return said("fast", shape.layers)
    return said("low", shape.layers)


def what_fits(
    shape: Shape,
    free: int,
    *,
    rank: int,
    batch: int,
    length: int,
    number_bytes: int = 2,
    dropout: bool = False,
    failed: int | None = None,
) -> list[str]:
    """Smaller settings that should fit into ``free`` bytes, each a recipe key with its value.

    Args:
        failed: the estimate for a run that ran out of memory. Where it had seemed to fit, the estimate was
            too low, or others took memory meanwhile: then what is suggested needs clearly less than that.

    Each suggestion changes one key alone where that is enough; else the three are made small
    together. Empty where nothing fits.
    """
    usable = free * (1 - SPARE)
    if failed is not None:
        usable = min(usable, failed * (1 - CLEARLY))

    def fits(rank: int, batch: int, length: int) -> bool:
        need = estimate_memory(
            shape, rank=rank, batch=batch, length=length, number_bytes=number_bytes, dropout=dropout
        )
        return need.total <= usable

    found = []
    smaller = _largest(batch - 1, lambda value: fits(rank, value, length))
    if smaller:
        found.append(f"finetune.batch_size = {smaller}")
    shorter = _largest(length - 1, lambda value: fits(rank, batch, value))
    if shorter >= 16:
        found.append(f"data.max_seq_len = {shorter // 8 * 8}")
    lower = _largest(rank - 1, lambda value: fits(value, batch, length))
    if lower:
        found.append(f"finetune.rank = {lower}")
    if not found:
        for tries in ((rank, 1, min(length, 512)), (min(rank, 16), 1, min(length, 512)), (8, 1, 128)):
            if fits(*tries):
                r, b, n = tries
                found.append(f"finetune.rank = {r} with finetune.batch_size = {b} and data.max_seq_len = {n}")
                break
    return found


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
