"""Does the ONNX model say what the PyTorch model says? And has the adapter learnt its records?

The comparison generates greedily with onnxruntime-genai only. Then one forward pass of the PyTorch
model over each prompt with its answer tells, for every token of the answer, whether PyTorch, having
read the same tokens, would have chosen it too. If so at every place, greedy text from PyTorch is the
same text, by induction. A token that PyTorch ranks lower by less than a small part of the spread of
its logits is a near tie, which rounding may break either way.

Where the runtime rounds activations to int8 (accuracy level 4), a model that is unsure of itself can
differ by more. Then the same graph is run with exact activations over the same text, and its logits
must be PyTorch's to a small part of their spread: that the graph is right is shown by this, and what
differs is the rounding alone. Anything else is a fault.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.errors import StageError, Use
from core.language import told

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

TIE = {"exact": 0.02, "rounded": 0.1}
"""How far below the best logit a near tie may lie, in standard deviations of the logits at that place:
for float32 activations, and for ones that the runtime rounds (int8 blocks, float16, bfloat16)."""


@dataclass(frozen=True)
class DifferingToken:
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
        by_rounding: prompts that differ further, though the same graph with exact activations has
            PyTorch's logits.
        wrong: the other prompts, by number.
        places: all tokens that differ.
    """

    prompts: int
    tokens: int
    identical: int
    ties: int
    by_rounding: int
    wrong: tuple[int, ...]
    places: tuple[DifferingToken, ...]

    @property
    def agreeing(self) -> int:
        """Prompts whose text is PyTorch's as far as the runtime's rounding lets it be."""
        return self.identical + self.ties + self.by_rounding

    def worst(self) -> DifferingToken | None:
        """The place with the largest gap for its spread."""
        return max(self.places, key=lambda place: place.gap / place.spread, default=None)


@dataclass(frozen=True)
class Choices:
    """What PyTorch thinks of one answer: float32 logits [tokens, vocabulary] at its places."""

    answer: Sequence[int]
    logits: torch.Tensor

    def differing(self, prompt: int) -> list[DifferingToken]:
        """The tokens that PyTorch would not have chosen."""
        chosen = self.logits.gather(1, self.logits.new_tensor(self.answer).long()[:, None])[:, 0]
        gaps = (self.logits.max(dim=1).values - chosen).tolist()
        spreads = self.logits.std(dim=1).tolist()
        return [
            DifferingToken(prompt, i, g, s)
            for i, (g, s) in enumerate(zip(gaps, spreads, strict=True))
            if g > 0
        ]

    def distance(self, other: Any) -> float:
        """The largest difference from other logits, in standard deviations of these."""
        import torch

        apart = (self.logits.cpu() - torch.from_numpy(other)).abs().max(dim=1).values
        return float((apart / self.logits.std(dim=1).cpu()).max())


def choices(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> list[Choices]:
    """One forward pass of a PyTorch model over prompts with their answers.

    Raises:
        StageError: its logits are not finite.
    """
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
                told("The PyTorch model gives no numbers."),
                told("Prompt {row}: its logits are not finite.", row=row + 1),
                code="optimize.verify",
            )
        result.append(Choices(answer, at))
    return result


def compare(found: Sequence[Choices], tolerance: float, *, rounded: Collection[int] = ()) -> Comparison:
    """Which answers PyTorch would have given.

    Args:
        tolerance: what a near tie is, see :data:`TIE`.
        rounded: prompts whose differences were shown to come from rounded activations alone.
    """
    places = [place for number, item in enumerate(found) for place in item.differing(number)]
    differing = {place.prompt for place in places}
    wrong = {place.prompt for place in places if not place.is_tie(tolerance)}
    by_rounding = wrong & set(rounded)
    return Comparison(
        prompts=len(found),
        tokens=sum(len(item.answer) for item in found),
        identical=len(found) - len(differing),
        ties=len(differing - wrong),
        by_rounding=len(by_rounding),
        wrong=tuple(sorted(wrong - by_rounding)),
        places=tuple(places),
    )


def demand(name: str, comparison: Comparison, tolerance: float) -> None:
    """Raise :class:`StageError` unless every prompt agrees; ``name`` says which model was compared."""
    if not comparison.wrong:
        return
    worst = max(
        (place for place in comparison.places if place.prompt in comparison.wrong),
        key=lambda place: place.gap / place.spread,
    )
    raise StageError(
        told("The ONNX model does not answer as {name} does in PyTorch.", name=name),
        told(
            "{count} of {prompts} prompts differ; in prompt {prompt} token {token} is {gap:.3g} "
            "below PyTorch's choice, {share:.0%} of the logits' spread where rounding explains "
            "{tolerance:.0%}.",
            count=len(comparison.wrong),
            prompts=comparison.prompts,
            prompt=worst.prompt + 1,
            token=worst.token + 1,
            gap=worst.gap,
            share=worst.gap / worst.spread,
            tolerance=tolerance,
        ),
        told(
            "Nothing was published. Set {precision} or quantize again.",
            precision=Use("optimize.precision", "fp32"),
        ),
        code="optimize.verify",
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
        "by_rounding": comparison.by_rounding,
        "largest_gap": None if worst is None else round(worst.gap / worst.spread, 4),
    }
