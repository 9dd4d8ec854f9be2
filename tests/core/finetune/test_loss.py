"""The loss at trained places: against the plain formula, by hand and by autograd."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from core.finetune import loss as loss_module
from core.finetune.loss import Measure, token_losses
from core.finetune.rows import TokenRow, collate
from core.olive.checkpoint import load_model
from tests.tiny_models import make_tiny

CPU = torch.device("cpu")
ROWS = [
    TokenRow([5, 60, 70, 80, 90, 100], [False, False, True, True, False, True]),
    TokenRow([9, 40, 41], [False, True, True]),
]


def test_a_sum_by_hand() -> None:
    hidden = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    value = token_losses(hidden, torch.tensor([0, 0]), lambda states: states)
    assert value.sum().item() == pytest.approx(
        -(1 - torch.tensor([1.0, 0.0]).logsumexp(0)) + torch.tensor([0.0, 2.0]).logsumexp(0)
    )


def test_chunks_change_neither_the_loss_nor_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 11)
    hidden = torch.randn(50, 8, requires_grad=True)
    targets = torch.randint(0, 11, (50,))
    weights = torch.rand(50)
    plain = functional.cross_entropy(head(hidden), targets, reduction="none")
    (wanted,) = torch.autograd.grad((plain * weights).sum(), hidden)
    monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", 11 * 7)
    losses = token_losses(hidden, targets, head)
    (found,) = torch.autograd.grad((losses * weights).sum() / 3, hidden)
    torch.testing.assert_close(losses, plain)
    torch.testing.assert_close(found, wanted / 3)


@pytest.mark.parametrize("arch", ["phi3", "llama", "gemma2"])
def test_the_mean_over_a_padded_batch_is_that_of_the_models_own_logits(arch: str, tmp_path: Path) -> None:
    model = load_model(make_tiny(arch, tmp_path / arch))
    measure = Measure(model)
    assert measure.try_out(torch.tensor([[1, 2, 3, 4]]))
    summed = measure(collate(ROWS, 0, CPU))
    wanted = torch.zeros(())
    for row in ROWS:  # one by one: without padding
        logits = model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
        for i in range(1, len(row.ids)):
            if row.trained[i]:
                wanted = wanted - logits[i - 1, row.ids[i]]
    torch.testing.assert_close(summed, wanted, rtol=1e-4, atol=1e-4)


def test_an_unknown_way_to_make_logits_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(make_tiny("llama", tmp_path))
    measure = Measure(model)
    monkeypatch.setattr(measure, "head", lambda states: model.get_output_embeddings()(states) * 3)
    assert not measure.try_out(torch.tensor([[1, 2, 3, 4]]))
    whole = measure(collate(ROWS, 0, CPU))
    monkeypatch.undo()
    measure.chosen_only = True
    torch.testing.assert_close(whole, measure(collate(ROWS, 0, CPU)), rtol=1e-4, atol=1e-4)
