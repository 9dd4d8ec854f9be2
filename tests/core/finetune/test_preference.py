"""Preferences: the losses are TRL's and the papers', and a model comes to prefer what it is shown as preferred."""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import Cancelled
from core.events import RecordingReporter
from core.finetune import stage
from core.finetune.checkpoints import Checkpoints
from core.finetune.loop import Settings, Trainer
from core.finetune.lora_layer import add_lora, load_lora
from core.finetune.loss import Measure
from core.finetune.objective import Preferences, kto, orpo
from core.finetune.rows import PreferenceRow, TokenRow, _answered_by
from core.folder import LabFolder
from core.olive.checkpoint import load_model
from core.stage_context import StageContext
from core.stages import assessment
from tests.core.finetune.helpers import quantized_tiny
from tests.recipes import settled
from tests.tiny_models import make_tiny

CPU = torch.device("cpu")
SETTINGS = Settings(
    steps=12,
    batch_size=4,
    accumulation=2,
    learning_rate=5e-3,
    warmup_ratio=0.1,
    seed=3,
    save_steps=5,
    eval_every=4,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantized_tiny(tmp_path_factory.mktemp("base"), "llama")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not quantized: transformers' trainer, which TRL's stand on, does not take a model that Olive has quantized."""
    return make_tiny("llama", tmp_path_factory.mktemp("plain"))


def text(prompt: list[int], answer: list[int]) -> TokenRow:
    return TokenRow(prompt + answer, [False] * len(prompt) + [True] * len(answer))


def rows(count: int = 30) -> list[PreferenceRow]:
    """Of two answers to a question the one that ends with 70 is preferred, be it the longer or the shorter one."""
    made = []
    for at in range(count):
        prompt = [1 + at, 50, *[51] * (at % 4)]
        chosen, rejected = (
            [60 + at % 7, *[61] * (at % 3), 70, 4],
            [60 + at % 7, *[61] * ((at + 1) % 3), 71, 4],
        )
        made.append(PreferenceRow(text(prompt, chosen), text(prompt, rejected), at % 3 != 0, at))
    return made


def policy(base: Path, dropout: float = 0.0) -> Any:
    torch.manual_seed(1)
    model = load_model(base)
    add_lora(model, rank=4, alpha=8, dropout=dropout)
    return model


def learnt(model: Any) -> None:
    """Have the adapter differ from the base."""
    torch.manual_seed(5)
    for name, each in model.named_parameters():
        if each.requires_grad and "lora_B" in name:
            torch.nn.init.normal_(each, std=0.3)


def judged(base: Path, kind: str, some: list[PreferenceRow]) -> tuple[Any, Any]:
    """The model, changed since the base was asked, and the judgement of its loss over all of them."""
    model = policy(base).eval()
    measure = Measure(model)
    assert measure.try_out(torch.tensor([some[0].ids]))
    objective = Preferences(kind, 0.3, len(some), measure, CPU)
    if objective.reference is not None:
        objective.reference.copy_(objective.base_says(some))
    learnt(model)
    return model, objective.judge(objective.batch(some))


def trl_loss(base: Path, kind: str, model: Any, some: list[PreferenceRow], tmp_path: Path) -> torch.Tensor:
    """What TRL's own trainer has for the same rows in one batch, of the same model."""
    from datasets import Dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    common = {
        "output_dir": str(tmp_path),
        "beta": 0.3,
        "per_device_train_batch_size": len(some),
        "use_cpu": True,
        "report_to": "none",
        "activation_checkpointing": False,
        "bf16": False,
    }
    given = {"model": model, "ref_model": load_model(base), "processing_class": tokenizer}
    prompts = [row.chosen.prompt for row in some]
    answers = [row.ids[len(prompt) :] for row, prompt in zip(some, prompts, strict=True)]
    others = [row.other.ids[len(row.other.prompt) :] for row in some]
    fields: dict[str, Any] = {"prompt_ids": prompts}
    words = {"prompt": ["a", "b"]}  # a trainer wants some rows of its own
    if kind == "dpo":
        from trl import DPOConfig, DPOTrainer

        fields |= {"chosen_ids": answers, "rejected_ids": others}
        own = Dataset.from_dict({**words, "chosen": ["c", "d"], "rejected": ["e", "f"]})
        trainer = DPOTrainer(args=DPOConfig(**common), train_dataset=own, **given)
    else:
        from trl import KTOConfig, KTOTrainer

        fields |= {
            "completion_ids": answers,
            "KL_completion_ids": others,
            "label": [row.good for row in some],
        }
        own = Dataset.from_dict({**words, "completion": ["c", "d"], "label": [True, False]})
        trainer = KTOTrainer(args=KTOConfig(**common), train_dataset=own, **given)
    batch = trainer.data_collator(
        [dict(zip(fields, row, strict=True)) for row in zip(*fields.values(), strict=True)]
    )
    loss: torch.Tensor = trainer.compute_loss(model, batch)
    return loss


@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_the_loss_and_its_gradient_are_those_of_trl(kind: str, plain: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    some = rows(9)
    model, found = judged(plain, kind, some)
    trained = [each for each in model.parameters() if each.requires_grad]
    ours = torch.autograd.grad(found.loss / len(some), trained)
    loss = trl_loss(plain, kind, model, some, tmp_path)
    theirs = torch.autograd.grad(loss, trained)
    assert abs(float(found.numbers[0]) / len(some) - float(loss.detach())) < 1e-5
    assert float(loss.detach()) != pytest.approx(math.log(2) if kind == "dpo" else 0.5, abs=1e-3)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-6)


def test_orpo_by_hand_and_as_trl_has_it() -> None:
    chosen, rejected = torch.tensor([-0.2, -3.0, -0.5]), torch.tensor([-0.9, -0.1, -0.5])
    losses, margin = orpo(chosen, rejected, 0.3)
    for at, (good, bad) in enumerate(zip(chosen.tolist(), rejected.tolist(), strict=True)):
        odds = [math.exp(log) / (1 - math.exp(log)) for log in (good, bad)]
        ratio = math.log(odds[0] / odds[1])
        assert margin[at].item() == pytest.approx(ratio, abs=1e-5)
        wanted = -good - 0.3 * math.log(1 / (1 + math.exp(-ratio)))
        assert losses[at].item() == pytest.approx(wanted, abs=1e-5)
    sure = torch.zeros(1, requires_grad=True)
    (gradient,) = torch.autograd.grad(orpo(sure, torch.full((1,), -50.0), 0.3)[0].sum(), sure)
    assert torch.isfinite(gradient).all()
    trl = pytest.importorskip("trl.experimental.orpo")
    stand_in: Any = type("Trainer", (), {"beta": 0.3, "accelerator": type("A", (), {"device": "cpu"})})
    theirs = trl.ORPOTrainer.odds_ratio_loss(stand_in, chosen, rejected)[0]
    torch.testing.assert_close(losses + chosen, -theirs, rtol=0, atol=1e-5)


def test_kto_weighs_against_how_far_the_model_has_gone() -> None:
    said, elsewhere = torch.tensor([-1.0, -2.0]), torch.tensor([-3.0, -1.0])
    base = torch.tensor([[-2.0, -4.0], [-1.0, -2.0]])
    losses, margin = kto(said, elsewhere, base, torch.tensor([True, False]), 0.5)
    sigmoid = [1 / (1 + math.exp(-0.5 * each)) for each in (1.0 - 1.0, 1.0 - (-1.0))]
    assert losses.tolist() == pytest.approx([1 - each for each in sigmoid])
    assert margin.tolist() == pytest.approx([0.5, 0.5])


def trainer(
    base: Path,
    kind: str,
    report: RecordingReporter,
    settings: Settings = SETTINGS,
    checkpoints: Checkpoints | None = None,
    dropout: float = 0.1,
) -> Trainer:
    some = rows()
    return Trainer(
        policy(base, dropout),
        some[:-6],
        some[-6:],
        settings,
        report,
        objective=lambda measure, device: Preferences(kind, 0.3, len(some), measure, device),
        checkpoints=checkpoints,
    )


@pytest.mark.parametrize("kind", ["dpo", "orpo", "kto"])
def test_it_comes_to_prefer_what_is_preferred_on_rows_it_has_not_seen(base: Path, kind: str) -> None:
    report = RecordingReporter()
    made = trainer(base, kind, report, dataclasses.replace(SETTINGS, steps=30, learning_rate=2e-2))
    course = made.train()
    assert course.kept_loss is not None
    assert course.kept_loss < 0.8 * (course.eval_at(0) or 0.0)
    assert course.told["preferred"][0][1] < 1.0
    assert course.kept_told["preferred"] >= (0.8 if kind == "kto" else 1.0)
    assert course.kept_told["margin"] > course.told["margin"][0][1] + 0.2
    of_base = course.told["margin"][0][1]
    assert (abs(of_base) < 1e-5) is (kind != "orpo"), "what is compared with the base starts from it"
    for name in ("loss", "margin", "preferred"):
        assert len(report.metrics(name)) == 30, name
        assert len(report.metrics(f"eval_{name}")) == len(course.eval_losses), name


class CancelAt(RecordingReporter):
    """Asks to stop before a step."""

    def check_cancelled(self) -> None:
        if len(self.metrics("loss")) >= 7:
            raise Cancelled


@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_after_a_stop_it_goes_on_with_the_same_bits(base: Path, kind: str, tmp_path: Path) -> None:
    straight = trainer(base, kind, RecordingReporter())
    wanted = straight.train()
    kept = Checkpoints(tmp_path / "kept", "key")
    with pytest.raises(Cancelled):
        trainer(base, kind, CancelAt(), checkpoints=kept).train()
    report = RecordingReporter()
    again = trainer(base, kind, report, checkpoints=kept)
    found = again.train()
    assert found.resumed_from == 7
    assert (found.losses, found.eval_losses, found.told) == (wanted.losses, wanted.eval_losses, wanted.told)
    assert "asking the base" not in {e.get("phase") for e in report.events}, "what it said was kept"
    for name, each in again.trained.items():
        assert torch.equal(each, straight.trained[name]), name


def test_only_rows_that_will_be_met_are_asked_about(base: Path) -> None:
    few = dataclasses.replace(SETTINGS, steps=2, accumulation=1, eval_every=0)
    made = trainer(base, "dpo", RecordingReporter(), few)
    made.train()
    assert made.objective.reference is not None
    asked = (made.objective.reference != 0).all(dim=1).nonzero().flatten().tolist()
    met = {row for number in range(2) for row in made.order.batch(number)}
    assert asked == sorted({*met, *range(24, 30)})


def test_rows_of_preferences_are_cut_alike_and_each_has_something_to_learn() -> None:
    short = text([1, 2, 3], [4, 5, 6])
    assert _answered_by(short, text([7], [8, 9, 10, 11]), 5) == TokenRow(
        [1, 2, 3, 8, 9], [False] * 3 + [True] * 2
    )
    assert _answered_by(short, text([7], [8, 9]), 3) == TokenRow([1, 2, 8], [False, False, True])


PAIRS: dict[str, Any] = {
    "data.file": "pairs.jsonl",
    "data.eval_fraction": 0.2,
    "finetune.objective": "dpo",
    "finetune.steps": 30,
    "finetune.rank": 4,
    "finetune.alpha": 8,
    "finetune.batch_size": 6,
    "finetune.learning_rate": 1e-2,
    "finetune.track": "tensorboard",
}


def test_a_job_on_sixty_pairs_makes_an_adapter_that_prefers_the_chosen_ones(
    tmp_path: Path, base: Path
) -> None:
    lab = LabFolder(tmp_path / "lab")
    lab.models_dir.mkdir(parents=True)
    shutil.copytree(base, lab.quantized_dir)
    shutil.copy(Path(__file__).parents[2] / "pairs.jsonl", lab.root)
    (work := lab.models_dir / ".work").mkdir()
    report = RecordingReporter()
    context = StageContext(lab, settled(PAIRS), report, work, {"fingerprint": {}}, {}, "finetune-001")
    result = stage.run(context)
    assert (result["train_rows"], result["eval_rows"]) == (48, 12)
    assert (result["objective"], result["beta"]) == ("dpo", 0.1)
    assert result["eval_loss_base"] == pytest.approx(math.log(2), abs=1e-4)
    assert result["eval_margin_tuned"] > 1.0
    assert result["eval_preferred_tuned"] >= 0.9 > result["eval_preferred_base"]
    assert report.metrics("eval_preferred")[-1] == result["eval_preferred_tuned"]
    told = assessment("finetune", result).text
    assert told.startswith("Of 12 held-out pairs it prefers the chosen answer in 1")
    tuned = load_lora(load_model(base), str(lab.finetuned_dir("travel")))
    assert not tuned.training
    assert list((lab.root / "trackers" / "tensorboard" / "finetune-001").iterdir())
