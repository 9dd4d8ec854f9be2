"""Which matrices of a model are rounded to fewer bits, and by which group sizes.

Olive's passes and ours round every ``torch.nn.Linear``, the output matrix among them, and nothing else: embeddings,
norms and GPT-2's ``Conv1D`` stay float. Which those are is read from the names and shapes in the files' headers.
"""

from __future__ import annotations

import re

from core.model.folder import ModelFacts
from core.model.weights import tensor_entries

GROUP_SIZES = (16, 32, 64, 128, 256)
"""The sizes that the kernels know."""

HEADS = ("lm_head", "embed_out", "output")
"""What the output matrix is called."""

_EMBEDDING = re.compile(r"(^|[._])(embed\w*|wte|wpe|\w*embeddings?)$")
_CONV1D = frozenset({"gpt2", "openai-gpt", "gpt-sw3"})


def rounded_matrices(facts: ModelFacts) -> dict[str, int]:
    """The number of inputs of each matrix that quantize rounds, by name.

    Empty where the weights are packed already.
    """
    widths = {}
    for name, entry in tensor_entries(facts.path).items():
        module, _, kind = name.rpartition(".")
        if kind != "weight" or len(entry.shape) != 2:
            continue
        head = module in HEADS
        if not head and (_EMBEDDING.search(module) or facts.model_type in _CONV1D):
            continue
        widths[module] = entry.shape[1]
    if widths and facts.tied_embeddings and not any(name in widths for name in HEADS):
        widths["lm_head"] = facts.hidden_size  # rounded too, and no longer the embeddings then
    return widths


def fitting_group_sizes(widths: dict[str, int]) -> list[int]:
    """The group sizes that divide all of some matrices' inputs, the smallest first."""
    return [size for size in GROUP_SIZES if all(width % size == 0 for width in widths.values())]
