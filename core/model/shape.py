"""The sizes of a decoder-only model, from its configuration: what memory and time are estimated from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from core.model.folder import config_facts

FUSED_TYPES = frozenset({"phi3", "phi4_multimodal", "glm", "glm4"})
"""Architectures with one matrix for gate and up; those of Phi-3 have one for q, k and v as well."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder-only model that decide on memory.

    Attributes:
        bits: of the quantized weights; None for a float model.
        group_size: weights that share a scale; -1 for a whole row.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    fused: bool
    bits: int | None = None
    group_size: int = 128

    @classmethod
    def of(cls, config: dict[str, Any]) -> Shape:
        """From a ``config.json`` as read; a multimodal one has its text part looked up.

        Raises:
            KeyError: it does not tell the sizes.
        """
        facts = config_facts(config)
        quantization = facts.quantization or {}
        for name in ("hidden_size", "layers", "heads"):
            if not getattr(facts, name):
                raise KeyError(name)
        return cls(
            hidden=facts.hidden_size,
            intermediate=facts.intermediate_size,
            layers=facts.layers,
            heads=facts.heads,
            kv_heads=facts.kv_heads,
            head_dim=facts.head_dim,
            vocab=facts.vocab_size or 32000,
            tied=facts.tied_embeddings,
            fused=facts.model_type in FUSED_TYPES,
            bits=int(quantization["bits"]) if "bits" in quantization else None,
            group_size=int(quantization.get("group_size", 128)),
        )

    @property
    def linears(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each linear layer of one decoder layer."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        if self.fused:
            attention = [(self.hidden, q + 2 * kv), (q, self.hidden)]
            return [*attention, (self.hidden, 2 * self.intermediate), (self.intermediate, self.hidden)]
        attention = [(self.hidden, q), (self.hidden, kv), (self.hidden, kv), (q, self.hidden)]
        mlp = [(self.hidden, self.intermediate)] * 2 + [(self.intermediate, self.hidden)]
        return attention + mlp

    def adapter_numbers(self, rank: int) -> int:
        """Numbers in a LoRA adapter on all linear layers."""
        return rank * self.layers * sum(inputs + outputs for inputs, outputs in self.linears)

    @property
    def parameters(self) -> int:
        """Numbers in the model's weights."""
        linears = self.layers * sum(inputs * outputs for inputs, outputs in self.linears)
        return linears + self.vocab * self.hidden * (1 if self.tied else 2)
