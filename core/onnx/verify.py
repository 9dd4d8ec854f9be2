"""Does the ONNX model say what the PyTorch model says? And has the adapter learnt its records?

The comparison generates greedily with onnxruntime-genai only. Then one forward pass of the PyTorch
model over each prompt with its answer tells, for every token of the answer, whether PyTorch, having
read the same tokens, would have chosen it too. If so at every place, greedy text from PyTorch is the
same text, by induction. A token that PyTorch ranks lower by less than a small part of the spread of
its logits is a near tie, which rounding may break either way; anything else is a fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.errors import StageError
from core.events import Reporter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TIE = {"exact": 0.02, "rounded": 0.1}
"""How far below the best logit a near tie may lie, in standard deviations of the logits at that place:
for float32 activations, and for ones that the runtime rounds (int8 blocks, float16)."""


@dataclass(frozen=True)
class Place:
    """A token of an answer that PyTorch would not have chosen.

    Attributes:
        prompt: number of the prompt, from 0.
        token: number of the token in the answer, from 0.
        gap: how far its logit is below the best one.
        spread: standard deviation of the logits there.
    """

    prompt: int
    token: int
    gap: float
    spread: float

    def is_tie(self, tolerance: float) -> bool:
        """Whether rounding explains it."""
        return self.gap <= tolerance * self.spread


@dataclass(frozen=True)
class Comparison:
    """The answers to some prompts, compared.

    Attributes:
        tokens: in all answers together.
        identical: prompts whose whole text is PyTorch's.
        ties: prompts that differ at near ties only.
        places: all tokens that differ.
    """

    prompts: int
    tokens: int
    identical: int
    ties: int
    places: tuple[Place, ...]

    @property
    def agreeing(self) -> int:
        """Prompts whose text is PyTorch's, near ties allowed."""
        return self.identical + self.ties

    def worst(self) -> Place | None:
        """The place with the largest gap for its spread."""
        return max(self.places, key=lambda place: place.gap / place.spread, default=None)


def compare(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    tolerance: float,
    report: Reporter,
) -> Comparison:
    """Compare generated answers with what a PyTorch model would have chosen.

    Raises:
        StageError: the PyTorch model's logits are not finite.
    """
    places: list[Place] = []
    for number, found in enumerate(_differing(model, prompts, answers)):
        report.check_cancelled()
        places += [Place(number, token, gap, spread) for token, gap, spread in found]
    differing = {place.prompt for place in places}
    wrong = {place.prompt for place in places if not place.is_tie(tolerance)}
    return Comparison(
        len(prompts),
        sum(map(len, answers)),
        len(prompts) - len(differing),
        len(differing - wrong),
        tuple(places),
    )


def _differing(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> list[list[tuple[int, float, float]]]:
    import torch

    device = next(model.parameters()).device
    rows = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    longest = max(map(len, rows))
    # Padding stands on the right, where no token of a causal model sees it.
    ids = torch.tensor([row + [row[-1]] * (longest - len(row)) for row in rows], device=device)
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits
    result = []
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        at = logits[row, len(prompt) - 1 : len(prompt) + len(answer) - 1].float()
        if not bool(torch.isfinite(at).all()):
            raise StageError(
                "The PyTorch model gives no numbers.", f"Prompt {row}: its logits are not finite."
            )
        chosen = at.gather(1, torch.tensor(answer, device=device)[:, None])[:, 0]
        gaps = (at.max(dim=1).values - chosen).tolist()
        spreads = at.std(dim=1).tolist()
        result.append([(i, g, s) for i, (g, s) in enumerate(zip(gaps, spreads, strict=True)) if g > 0])
    return result


def demand(name: str, comparison: Comparison, tolerance: float) -> None:
    """Raise :class:`StageError` unless every prompt agrees; ``name`` says which model was compared."""
    if comparison.agreeing == comparison.prompts:
        return
    worst = comparison.worst()
    assert worst is not None
    raise StageError(
        f"The ONNX model does not answer as {name} does in PyTorch.",
        f"{comparison.prompts - comparison.agreeing} of {comparison.prompts} prompts differ; in prompt "
        f"{worst.prompt + 1} token {worst.token + 1} is {worst.gap:.3g} below PyTorch's choice, "
        f"{worst.gap / worst.spread:.0%} of the logits' spread where rounding explains {tolerance:.0%}.",
        "Nothing was published. Set optimize.precision to fp32 or quantize again.",
    )


def summary(comparison: Comparison) -> dict[str, Any]:
    """The comparison in numbers for the stage's result."""
    worst = comparison.worst()
    return {
        "prompts": comparison.prompts,
        "tokens": comparison.tokens,
        "agreeing": comparison.agreeing,
        "identical": comparison.identical,
        "near_ties": comparison.ties,
        "largest_gap": None if worst is None else round(worst.gap / worst.spread, 4),
    }
