"""How far a quantized model is from the float one, in numbers: perplexity and KL divergence.

Perplexity is exp of the mean negative log-likelihood of the next token; the KL divergence is that of
the quantized model's next-token distribution from the float model's, in nats, averaged over
positions. KL tells methods apart where perplexity does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from core.events import Reporter
from core.language import told

if TYPE_CHECKING:
    import torch

    from core.model.folder import ModelFacts

Logits = Callable[[Sequence[int]], "torch.Tensor"]
"""Token ids of one row to logits of shape (tokens, vocabulary), float32, on the CPU."""

BUDGET = 1 << 26
"""Numbers of the float model's log-probabilities that are kept at most (256 MiB)."""


@dataclass(frozen=True)
class Quality:
    """What :func:`compare` measured.

    Attributes:
        kl: mean KL divergence in nats per token.
        agreement: share of positions where both models' likeliest token is the same.
        similarity: mean cosine between the two models' centred logits; near 0 for unrelated models.
    """

    perplexity_float: float
    perplexity: float
    kl: float
    agreement: float
    similarity: float
    rows: int
    tokens: int

    def as_dict(self) -> dict[str, float]:
        """For results and reports."""
        return asdict(self)


def affordable(facts: ModelFacts, device: str) -> int:
    """Tokens to measure on: all on a GPU; on a CPU what takes some seconds."""
    if device != "cpu":
        return 4096
    return max(64, min(4096, int(1e12 / (2 * max(facts.parameters, 1)))))


def within_budget(rows: Sequence[Sequence[int]], vocab_size: int, tokens: int = 4096) -> list[list[int]]:
    """The first rows, each of two tokens or more, whose log-probabilities fit the memory budget."""
    left = min(tokens, BUDGET // max(vocab_size, 1))
    chosen: list[list[int]] = []
    for row in rows:
        if left < 2:
            break
        if len(row) >= 2:
            chosen.append(list(row[:left]))
            left -= len(chosen[-1])
    return chosen


def reference(logits: Logits, rows: Sequence[Sequence[int]], report: Reporter) -> list[torch.Tensor]:
    """The float model's log-probabilities for each row, float32, on the CPU."""
    import torch

    kept = []
    for number, row in enumerate(rows):
        report.check_cancelled()
        report.progress(told("Asking the float model"), number, len(rows))
        kept.append(logits(row).to(torch.float32).log_softmax(-1))
    report.progress(told("Asking the float model"), len(rows), len(rows))
    return kept


def compare(
    expected: Sequence[torch.Tensor], logits: Logits, rows: Sequence[Sequence[int]], report: Reporter
) -> Quality:
    """Measure a model against the log-probabilities that :func:`reference` gave for the same rows.

    A model whose logits are not finite gets NaN for all it was measured by.
    """
    import torch

    nll_float = nll = kl = same = cosine = 0.0
    scored = positions = 0
    for number, (row, want) in enumerate(zip(rows, expected, strict=True)):
        report.check_cancelled()
        report.progress(told("Comparing with the float model"), number, len(rows))
        got = logits(row).to(torch.float32).log_softmax(-1)
        target = torch.tensor(row[1:]).unsqueeze(-1)
        nll_float -= want[:-1].gather(-1, target).sum().item()
        nll -= got[:-1].gather(-1, target).sum().item()
        kl += (want.exp() * (want - got)).sum().item()
        same += (want.argmax(-1) == got.argmax(-1)).sum().item()
        centred = [each - each.mean(-1, keepdim=True) for each in (want, got)]
        cosine += torch.nn.functional.cosine_similarity(*centred, dim=-1).sum().item()
        scored += len(row) - 1
        positions += len(row)
    report.progress(told("Comparing with the float model"), len(rows), len(rows))
    return Quality(
        perplexity_float=_exp(nll_float / max(scored, 1)),
        perplexity=_exp(nll / max(scored, 1)),
        kl=kl / max(positions, 1),
        agreement=same / max(positions, 1),
        similarity=cosine / max(positions, 1),
        rows=len(rows),
        tokens=positions,
    )


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def of_model(model: torch.nn.Module) -> Logits:
    """A loaded transformers model as :data:`Logits`."""
    import torch

    device = next((p.device for p in model.parameters()), torch.device("cpu"))

    def logits(row: Sequence[int]) -> torch.Tensor:
        with torch.inference_mode():
            out = model(input_ids=torch.tensor([list(row)], device=device), use_cache=False).logits[0]
        return out.float().cpu()

    return logits
