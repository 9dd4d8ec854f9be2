"""Steps captured as CUDA graphs: the shapes that batches are padded to, and what padding leaves as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.events import RecordingReporter
from core.finetune import captured
from core.finetune.captured import Shape, Shapes
from core.finetune.loop import Settings, Trainer
from core.finetune.lora_layer import add_lora
from core.finetune.loss import Measure
from core.finetune.objective import Answers
from core.finetune.ranks import Ranks
from core.finetune.rows import TokenRow
from core.olive.checkpoint import load_model, unpack_linears
from tests.core.finetune.helpers import quantized_tiny

MET = st.lists(
    st.builds(Shape, st.integers(1, 8), st.integers(2, 90), st.integers(1, 300)), min_size=1, max_size=60
)


@given(MET)
def test_every_batch_has_a_shape_and_padding_pays(met: list[Shape]) -> None:
    shapes = Shapes(met)
    assert sum(shapes.uses.values()) == len(met)
    padded = 0
    for each in met:
        shape = shapes.of(each)
        assert shape is not None
        assert shape.holds(each)
        assert shape.width % 8 == 0
        padded += shape.tokens
    alone = [(each.rows, -(-each.width // 8) * 8) for each in met]
    mean = sum(r * w for r, w in alone) / len(met)
    # What is padded is worth less than the graphs that it saves.
    saved = len(set(alone)) - len(shapes.uses)
    assert padded - mean * len(met) <= captured.PRICE * mean * saved + 1e-6
    assert Shapes(met).uses == shapes.uses


def test_rows_of_like_length_share_a_few_shapes() -> None:
    met = [Shape(8, width, width) for width in (20, 30, 40, 50, 60)] * 40 + [Shape(4, 33, 12)] * 2
    shapes = Shapes(met)
    assert 2 <= len(shapes.uses) <= 5
    assert all(shape.rows == 8 for shape in shapes.uses)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantized_tiny(tmp_path_factory.mktemp("base"), "phi3")


def made_rows(count: int = 24) -> list[TokenRow]:
    rows = []
    for i in range(count):
        ids = [1 + i % 9, 50, *range(60, 64 + i % 5), 4]
        rows.append(TokenRow(ids, [False, False, *[True] * (len(ids) - 2)]))
    return rows


def test_padding_changes_neither_loss_nor_gradient(base: Path) -> None:
    model = load_model(base)
    add_lora(model, rank=4, alpha=8)
    trained = [p for p in model.parameters() if p.requires_grad]
    for each in trained:
        each.data.normal_(0, 0.1)
    measure = Measure(model)
    rows = made_rows(3)
    assert measure.try_out(torch.tensor([rows[0].ids]))
    answers = Answers(measure, torch.device("cpu"))
    losses = []
    for options in ({}, {"width": 24, "count": 5, "learnt": 40}):
        judged = answers.judge(answers.batch(rows, **options))
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(judged.loss, trained)])
        losses.append((judged.numbers, gradient))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-3, atol=1e-4)


def trained_on(base: Path, dropout: float, capture: bool) -> tuple[Trainer, RecordingReporter]:
    report = RecordingReporter()
    model = load_model(base, device="cuda", dtype=torch.float32)
    unpack_linears(model, torch.float32)
    torch.manual_seed(3)
    add_lora(model, rank=4, alpha=8, dropout=dropout)
    settings = Settings(steps=20, batch_size=4, accumulation=2, learning_rate=5e-3, warmup_ratio=0.1, seed=3)
    rows = made_rows()
    trainer = Trainer(model, rows[:-6], rows[-6:], settings, report, capture=capture)
    trainer.train()
    return trainer, report


@pytest.mark.parametrize("accumulation", [1, 2])
def test_each_of_several_ranks_pads_its_own_share(base: Path, accumulation: int) -> None:
    rows, settings = made_rows(), Settings(6, 3, accumulation, 5e-3, 0.1, seed=3)
    learnt, places = 0, 0
    for rank in range(2):
        model = load_model(base)
        add_lora(model, rank=4, alpha=8)
        trainer = Trainer(model, rows, [], settings, RecordingReporter(), ranks=Ranks(rank, 2))
        plain = [part.batch for step in range(1, 7) for part in trainer._share_of(step).parts]
        trainer._shapes = Shapes(trainer._shapes_met())
        parts = [part for step in range(1, 7) for part in trainer._share_of(step).parts]
        for part, alone in zip(parts, plain, strict=True):
            high, wide = part.batch.input_ids.shape
            assert Shape(high, wide, len(part.batch.targets)) in trainer._shapes.uses
            assert part.rows <= 3, "what is dropped is that of the whole batch"
            assert part.batch.counts == alone.counts
            learnt += sum(part.batch.counts)
        places += sum(part.batch.targets.ne(-100).sum().item() for part in parts)
    met = [row for number in range(6 * accumulation) for row in trainer._batch(number)]
    assert learnt == places == sum(row.weight for row in met)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_captured_steps_learn_the_same(base: Path, dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    quick, report = trained_on(base, dropout, capture=True)
    assert quick._graphs is not None
    assert quick._graphs.works
    assert quick._graphs._graphs
    assert not [e for e in report.events if e["type"] == "log"]

    def differs(self: Any, *args: Any) -> float:
        return 1.0

    monkeypatch.setattr(captured.Graphs, "_apart", differs)
    plain, report = trained_on(base, dropout, capture=True)
    assert plain._graphs is not None
    assert not plain._graphs.works
    assert [e for e in report.events if "captured step is 100.0%" in str(e)]
    assert quick.course.losses == pytest.approx(plain.course.losses, rel=1e-4)
    assert quick.course.kept_loss == pytest.approx(plain.course.kept_loss, rel=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_captured_steps_learn_as_steps_that_are_not(base: Path) -> None:
    quick, _ = trained_on(base, 0.0, capture=True)
    never, _ = trained_on(base, 0.0, capture=False)
    assert quick.course.losses == pytest.approx(never.course.losses, rel=1e-3)
