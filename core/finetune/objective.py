"""What a training makes smaller: the loss of the answers, or one that weighs preferred answers against rejected ones.

The losses of preferences are those of TRL. Its trainers are not used: a stop between two steps, a resumption to the
same bits, several ranks with one course, and weights that stay packed are what this program's one loop is for, and a
second loop beside it would have to have them all again. What TRL adds to it is a few lines of arithmetic, and
``tests/core/finetune/test_preference.py`` holds them against TRL's trainers on the same rows.

- DPO: Rafailov et al. 2023, arXiv:2305.18290.
- ORPO: Hong et al. 2024, arXiv:2403.07691. Its first term is the mean loss of each chosen answer, as in the paper; TRL
  takes that of the question along, over all tokens of a batch.
- KTO: Ethayarajh et al. 2024, arXiv:2402.01306, good and bad answers weighing alike.

DPO and KTO compare with the base. An adapter that has learnt nothing adds nothing, so the model itself is asked once
before the first step, and what it said is kept with the checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn import functional

from core.finetune.loss import Measure
from core.finetune.memory import TEXTS_AT_ONCE
from core.finetune.rows import PreferenceRow, TokenBatch, TokenRow, collate


@dataclass(frozen=True)
class Judged:
    """A batch, judged.

    Attributes:
        loss: the sum of what its rows lose, to go backward from.
        numbers: the same, and what else is told of a step and measured on held-out rows (:attr:`Objective.told`),
            as sums over its rows.
    """

    loss: torch.Tensor
    numbers: torch.Tensor


class Objective(Protocol):
    """What is trained for. The rows that it is given are all of its own kind.

    Attributes:
        told: names of the numbers beside the loss, as in events.
        texts: how many texts the model reads at once for a row.
        reference: what the base says of each row, by :attr:`~core.finetune.rows.PreferenceRow.number`; None where
            nobody asks.
    """

    told: tuple[str, ...]
    texts: int
    reference: torch.Tensor | None

    def batch(self, rows: Sequence[Any], *, width: int = 0) -> Any:
        """The rows on the device, as wide as the widest or wider."""

    def judge(self, batch: Any) -> Judged:
        """The loss of a batch."""

    def base_says(self, rows: Sequence[Any]) -> torch.Tensor:
        """For :attr:`reference`, of rows while the adapter has learnt nothing: [rows, 2]."""


class Answers:
    """The loss of each word of the answers, as in supervised finetuning."""

    told: tuple[str, ...] = ()
    texts = 1
    reference: torch.Tensor | None = None

    def __init__(self, measure: Measure, device: torch.device, pad_id: int = 0) -> None:
        self._measure, self._device, self._pad_id = measure, device, pad_id

    def batch(self, rows: Sequence[Any], *, width: int = 0, count: int = 0, learnt: int = 0) -> TokenBatch:
        """The rows, padded; see :func:`~core.finetune.rows.collate`."""
        return collate(rows, self._pad_id, self._device, width=width, count=count, learnt=learnt)

    def judge(self, batch: TokenBatch) -> Judged:
        """The sum of the losses of all words to be learnt."""
        loss = self._measure(batch)
        return Judged(loss, loss.detach()[None])

    def base_says(self, rows: Sequence[Any]) -> torch.Tensor:
        """Nothing: the base does not matter."""
        return torch.zeros(len(rows), 2)


@dataclass(frozen=True)
class PreferenceBatch:
    """Rows of preferences on the device.

    Attributes:
        first: the first answers, and behind them those that they are compared with, if these are learnt too.
        other: for KTO the answers to other questions.
        reference: [rows, 2], what the base says.
        good: [rows], whether the first answer is one to be given.
    """

    first: TokenBatch
    other: TokenBatch | None
    reference: torch.Tensor
    good: torch.Tensor


class Preferences:
    """The loss of not preferring what is preferred.

    Args:
        kind: ``dpo``, ``orpo`` or ``kto``.
        beta: the losses' one constant.
        rows: how many rows there are in all, held-out ones too.
    """

    told: tuple[str, ...] = ("margin", "preferred")
    reference: torch.Tensor | None

    def __init__(
        self,
        kind: str,
        beta: float,
        rows: int,
        measure: Measure,
        device: torch.device,
        pad_id: int = 0,
    ) -> None:
        self.kind, self.beta = kind, beta
        self.texts = TEXTS_AT_ONCE[kind]
        self.reference = None if kind == "orpo" else torch.zeros(rows, 2)
        self._measure, self._device, self._pad_id = measure, device, pad_id

    def batch(self, rows: Sequence[PreferenceRow], *, width: int = 0) -> PreferenceBatch:
        """The rows, padded, with what the base says of them."""
        first, second = [row.chosen for row in rows], [row.other for row in rows]
        apart = self.kind == "kto"
        numbers = [row.number for row in rows]
        said = torch.zeros(len(rows), 2) if self.reference is None else self.reference[numbers]
        return PreferenceBatch(
            self._collate(first if apart else first + second, width),
            self._collate(second, width) if apart else None,
            said.to(self._device),
            torch.tensor([row.good for row in rows], device=self._device),
        )

    def _collate(self, rows: Sequence[TokenRow], width: int) -> TokenBatch:
        return collate(rows, self._pad_id, self._device, width=width)

    def judge(self, batch: PreferenceBatch) -> Judged:
        """The sum of the losses of all rows, and of their margins, and how many are preferred as they should be."""
        said = self._log_probabilities(batch.first)
        if batch.other is not None:
            with torch.no_grad():
                elsewhere = self._log_probabilities(batch.other)
            losses, margin = kto(said, elsewhere, batch.reference, batch.good, self.beta)
            preferred = margin > 0
        else:
            words = torch.tensor(batch.first.counts, dtype=said.dtype, device=said.device)
            chosen, rejected = (said / words).chunk(2)
            preferred = chosen > rejected
            if self.kind == "orpo":
                losses, margin = orpo(chosen, rejected, self.beta)
            else:
                losses, margin = dpo(said, batch.reference, self.beta)
        sums = (losses.detach().sum(), margin.detach().sum(), preferred.sum().to(losses.dtype))
        return Judged(losses.sum(), torch.stack(sums))

    @torch.no_grad()
    def base_says(self, rows: Sequence[PreferenceRow]) -> torch.Tensor:
        """The log-probabilities of both answers of each row."""
        texts = [row.chosen for row in rows] + [row.other for row in rows]
        return torch.stack(self._log_probabilities(self._collate(texts, 0)).chunk(2), dim=1)

    def _log_probabilities(self, batch: TokenBatch) -> torch.Tensor:
        """The log-probability of each text's answer, [texts]."""
        # Not by index_add, whose sums come out differently from time to time on a GPU.
        return torch.stack([-each.sum() for each in self._measure.each(batch).split(batch.counts)])


def dpo(said: torch.Tensor, base: torch.Tensor, beta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The losses and the margins of the rewards, from the log-probabilities of whole answers.

    Args:
        said: of the chosen answers, and behind them of the rejected ones.
        base: [pairs, 2], the same of the base.
    """
    chosen, rejected = said.chunk(2)
    margin = beta * ((chosen - base[:, 0]) - (rejected - base[:, 1]))
    return -functional.logsigmoid(margin), margin


def orpo(chosen: torch.Tensor, rejected: torch.Tensor, beta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The losses and the log odds ratios, from the mean log-probabilities of the answers' words."""
    margin = (chosen - rejected) - (_log_of_not(chosen) - _log_of_not(rejected))
    return -chosen - beta * functional.logsigmoid(margin), margin


def _log_of_not(log: torch.Tensor) -> torch.Tensor:
    """log(1 - exp(x)) for x < 0, exact at both ends (Mächler 2012)."""
    log = log.clamp(max=-1e-7)  # of a probability of 1 there is no logarithm
    return torch.where(log > -0.6931, torch.log(-torch.expm1(log)), torch.log1p(-torch.exp(log)))


def kto(
    said: torch.Tensor, elsewhere: torch.Tensor, base: torch.Tensor, good: torch.Tensor, beta: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The losses and the rewards, turned round for bad answers, from the log-probabilities of whole answers.

    Args:
        elsewhere: of answers to other questions, which tell how far the model has gone from the base.
        base: [rows, 2], the same of the base.
    """
    gone = (elsewhere - base[:, 1]).mean().clamp(min=0).detach()
    ratio = said - base[:, 0]
    side = torch.where(good, 1.0, -1.0)
    return 1 - torch.sigmoid(beta * side * (ratio - gone)), beta * side * ratio
