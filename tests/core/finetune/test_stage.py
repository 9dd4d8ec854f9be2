"""The finetune stage as a job runs it, on tiny models of three architectures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import Cancelled, LabError, MachineError, RequestError, StageError
from core.events import RecordingReporter
from core.files import MANIFEST
from core.finetune import stage as finetune
from core.folder import LabFolder
from core.olive.checkpoint import load_model
from core.stage_context import StageContext
from tests.core.finetune.helpers import quantized_tiny, write_records
from tests.recipes import settled
from tests.tiny_models import make_tiny

SMALL: dict[str, Any] = {
    "data.file": "records.jsonl",
    "data.eval_fraction": 0.2,
    "finetune.steps": 12,
    "finetune.rank": 4,
    "finetune.alpha": 8,
    "finetune.batch_size": 4,
    "finetune.learning_rate": 5e-3,
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Tiny quantized models, made once for each architecture."""
    root = tmp_path_factory.mktemp("bases")

    def base(arch: str) -> Path:
        folder = root / arch
        return folder if folder.exists() else quantized_tiny(folder, arch)

    return base


@pytest.fixture
def lab(tmp_path: Path, bases: Callable[[str], Path]) -> LabFolder:
    """A lab with records and a quantized Phi-3."""
    folder = LabFolder(tmp_path / "lab")
    folder.models_dir.mkdir(parents=True)
    write_records(folder.root / "records.jsonl")
    shutil.copytree(bases("phi3"), folder.quantized_dir)
    return folder


def run(lab: LabFolder, report: RecordingReporter | None = None, **changes: Any) -> dict[str, Any]:
    recipe = settled({**SMALL, **{k.replace("__", "."): v for k, v in changes.items()}})
    work = lab.models_dir / ".finetune.work"
    work.mkdir()
    try:
        context = StageContext(lab, recipe, report or RecordingReporter(), work, {"fingerprint": {}}, {})
        return finetune.run(context)
    finally:
        shutil.rmtree(work)


@pytest.mark.parametrize("arch", ["phi3", "llama", "qwen2"])
def test_it_makes_an_adapter_that_is_better_on_held_out_records(
    arch: str, lab: LabFolder, bases: Callable[[str], Path]
) -> None:
    from core.finetune.lora_layer import load_lora

    shutil.rmtree(lab.quantized_dir)
    shutil.copytree(bases(arch), lab.quantized_dir)
    report = RecordingReporter()
    result = run(lab, report)

    assert result["eval_loss_tuned"] < 0.9 * result["eval_loss_base"]
    measured = report.metrics("eval_loss")
    assert (measured[0], measured[-1]) == (result["eval_loss_base"], result["eval_loss_tuned"])
    assert [step for step, _ in result["eval_curve"]] == list(range(13)), "a tenth of 12 steps is one"
    assert (result["steps"], result["kept_step"], result["stopped_early_of"]) == (12, 12, None)
    assert result["train_rows"] + result["eval_rows"] == 40
    assert [step for step, _ in result["loss_curve"]] == list(range(1, 13))
    phases = [e["phase"] for e in report.events if e["type"] == "progress"]
    assert list(dict.fromkeys(phases)) == [
        "loading",
        "evaluating base",
        "training",
        "evaluating",
        "verifying",
    ]
    folder = lab.finetuned_dir("travel")
    assert sorted(p.name for p in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        MANIFEST,
    ]
    assert json.loads((folder / MANIFEST).read_text())["result"] == json.loads(json.dumps(result))
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["task_type"]) == (4, 8, "CAUSAL_LM")
    assert {e["what"] for e in report.events if e["type"] == "artifact"} == {"LoRA adapter"}
    assert not lab.checkpoints_dir("travel").parent.exists()

    ids = torch.tensor([[1, 2, 3, 50, 60]])
    base = load_model(lab.quantized_dir)
    plain = base(input_ids=ids).logits
    tuned = load_lora(base, str(folder))(input_ids=ids).logits
    assert not torch.allclose(plain, tuned, atol=0.1)


def test_the_same_run_gives_the_same_bytes(lab: LabFolder) -> None:
    run(lab)
    first = {p.name: p.read_bytes() for p in lab.finetuned_dir("travel").iterdir() if p.name != MANIFEST}
    run(lab)
    assert first == {
        p.name: p.read_bytes() for p in lab.finetuned_dir("travel").iterdir() if p.name != MANIFEST
    }
    run(lab, finetune__seed=1)
    assert (
        first["adapter_model.safetensors"]
        != (lab.finetuned_dir("travel") / "adapter_model.safetensors").read_bytes()
    )


def test_a_float_base_and_a_second_adapter(lab: LabFolder) -> None:
    shutil.rmtree(lab.quantized_dir)
    make_tiny("llama", lab.quantized_dir)
    run(lab)
    result = run(lab, finetune__adapter="food.v2", finetune__memory="low", finetune__dropout=0.1)
    assert result["memory"] == "low"
    assert result["recomputed_layers"] == 2
    assert sorted(p.name for p in lab.finetuned_root.iterdir()) == ["food.v2", "travel"]


def test_the_way_with_little_memory_trains_the_same(lab: LabFolder) -> None:
    fast = run(lab)
    low = run(lab, finetune__memory="low")
    assert (fast["memory"], low["memory"]) == ("fast", "low")
    assert low["eval_loss_tuned"] == pytest.approx(fast["eval_loss_tuned"], rel=1e-3)


class CancelAt(RecordingReporter):
    """Asks to stop after so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def check_cancelled(self) -> None:
        if len(self.metrics("loss")) >= self.steps:
            raise Cancelled


def test_cancelled_and_run_again_it_goes_on(lab: LabFolder) -> None:
    wanted = run(lab)
    shutil.rmtree(lab.finetuned_root)
    with pytest.raises(Cancelled):
        run(lab, CancelAt(6))
    assert not lab.finetuned_dir("travel").exists()
    assert lab.checkpoints_dir("travel").exists()
    # How often checkpoints are kept is not part of what is trained.
    result = run(lab, finetune__save_steps=3)
    assert result["resumed_from"] == 6
    assert result["loss_curve"] == wanted["loss_curve"]
    assert result["eval_loss_tuned"] == wanted["eval_loss_tuned"]
    assert not lab.checkpoints_dir("travel").exists()


def test_the_best_step_becomes_the_adapter_across_a_stop(
    lab: LabFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Best at step 5, and worse from there on: three measurements later the training ends."""
    from core.finetune import loop

    monkeypatch.setattr(
        loop.Trainer, "_held_out", lambda self, step, rows, phase="": loop.Held(1.0 + abs(step - 5) / 10)
    )
    asked: dict[str, Any] = {"finetune__keep": "best", "finetune__stop_early": 3}
    wanted = run(lab, **asked)
    assert (wanted["kept_step"], wanted["steps"], wanted["stopped_early_of"]) == (5, 8, 12)
    assert (wanted["eval_loss_base"], wanted["eval_loss_tuned"]) == (1.5, 1.0)
    first = (lab.finetuned_dir("travel") / "adapter_model.safetensors").read_bytes()
    shutil.rmtree(lab.finetuned_root)
    run(lab)
    assert (lab.finetuned_dir("travel") / "adapter_model.safetensors").read_bytes() != first
    shutil.rmtree(lab.finetuned_root)
    with pytest.raises(Cancelled):
        run(lab, CancelAt(wanted["steps"] - 1), **asked)
    result = run(lab, **asked)
    assert result["resumed_from"] == wanted["steps"] - 1
    assert (result["eval_curve"], result["kept_step"]) == (wanted["eval_curve"], wanted["kept_step"])
    assert (lab.finetuned_dir("travel") / "adapter_model.safetensors").read_bytes() == first


def test_without_held_out_records_there_is_no_best(lab: LabFolder) -> None:
    with pytest.raises(RequestError, match="nothing to measure with"):
        run(lab, finetune__keep="best", data__eval_fraction=0.0)
    with pytest.raises(RequestError, match="needs measurements"):
        run(lab, finetune__keep="best", finetune__eval_every=0)
    result = run(lab, data__eval_fraction=0.0)
    assert (result["eval_loss_tuned"], result["eval_curve"], result["kept_step"]) == (None, [], 12)


def test_another_recipe_or_other_records_start_anew(lab: LabFolder) -> None:
    with pytest.raises(Cancelled):
        run(lab, CancelAt(6))
    assert run(lab, finetune__rank=2)["resumed_from"] == 0
    with pytest.raises(Cancelled):
        run(lab, CancelAt(6))
    write_records(lab.root / "records.jsonl", 39)
    assert run(lab)["resumed_from"] == 0


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"finetune__rank": 0}, "rank"),
        ({"finetune__adapter": "../up"}, "adapter"),
        ({"finetune__adapter": "a b"}, "adapter"),
    ],
)
def test_impossible_options_are_refused(lab: LabFolder, changes: dict[str, Any], word: str) -> None:
    with pytest.raises(RequestError, match=word):
        run(lab, **changes)


@pytest.mark.parametrize(("key", "value"), [("rank", 0), ("rank", -4), ("adapter", ".."), ("adapter", "a/b")])
def test_a_recipe_made_by_hand_is_checked_too(lab: LabFolder, key: str, value: Any) -> None:
    import dataclasses

    recipe = settled(SMALL)
    recipe = dataclasses.replace(recipe, finetune=dataclasses.replace(recipe.finetune, **{key: value}))
    with pytest.raises(RequestError, match=f"finetune.{key}"):
        finetune.fingerprint(lab, recipe)


def test_without_a_quantized_model_it_says_what_to_run(lab: LabFolder) -> None:
    shutil.rmtree(lab.quantized_dir)
    with pytest.raises(RequestError) as failure:
        run(lab)
    assert "quantize" in failure.value.hint


def test_records_that_leave_nothing_to_learn_are_refused(lab: LabFolder) -> None:
    row = {"prompt": "Where? " * 40, "response": "There."}
    (lab.root / "records.jsonl").write_text(
        "".join(json.dumps({**row, "prompt": f"{row['prompt']}{i}"}) + "\n" for i in range(8))
    )
    with pytest.raises(RequestError, match="nothing to train on"):
        run(lab, data__max_seq_len=16)


def test_rows_that_are_cut_are_counted_and_said(lab: LabFolder) -> None:
    with (lab.root / "records.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "Where?", "response": "There and there. " * 40}) + "\n")
    report = RecordingReporter()
    result = run(lab, report, data__max_seq_len=64)
    assert result["truncated_rows"] == 1
    assert any("cut at 64 tokens" in e["text"] for e in report.events if e["type"] == "log")


@pytest.mark.parametrize(("every", "step"), [(0, 2), ("auto", 1)])
def test_numbers_gone_astray_publish_nothing(
    lab: LabFolder, monkeypatch: pytest.MonkeyPatch, every: int | str, step: int
) -> None:
    from core.finetune import loop

    monkeypatch.setattr(loop.Settings, "rate", lambda self, step: float("inf"))
    with pytest.raises(StageError) as failure:
        run(lab, finetune__eval_every=every)
    assert "astray" in failure.value.title
    assert f"step {step} of 12" in failure.value.detail
    assert "finetune.learning_rate" in failure.value.hint
    assert not lab.finetuned_root.exists()


def test_too_little_memory_is_said_before_anything_is_loaded(
    lab: LabFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.finetune import training

    monkeypatch.setattr(training, "free_bytes", lambda device: 1_200_000)
    with pytest.raises(MachineError) as failure:
        run(lab, finetune__batch_size=64)
    assert "RAM" in failure.value.title
    assert "64 rows a batch" in failure.value.detail
    assert "finetune.batch_size = " in failure.value.hint


def full(*args: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore words.")


def test_a_full_gpu_is_tried_again_the_way_that_needs_least(
    lab: LabFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.finetune import loop

    train = loop.Trainer.train
    tries: list[int] = []

    def full_once(self: Any) -> Any:
        tries.append(1)
        return full() if len(tries) == 1 else train(self)

    monkeypatch.setattr(loop.Trainer, "train", full_once)
    report = RecordingReporter()
    result = run(lab, report)
    assert result["memory"] == "low"
    assert any("trying again" in e["text"] for e in report.events if e["type"] == "log")


def test_a_gpu_that_stays_full_is_an_error_that_helps(
    lab: LabFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.finetune import loop

    monkeypatch.setattr(loop.Trainer, "train", full)
    with pytest.raises(MachineError) as failure:
        run(lab)
    assert failure.value.exit_status == 4
    assert "Tried to allocate 2.00 GiB" in failure.value.detail
    assert "rank 4, 4 rows a batch" in failure.value.detail
    assert "finetune.batch_size" in failure.value.hint
    assert not lab.finetuned_root.exists()


def test_the_fingerprint_knows_its_inputs(lab: LabFolder) -> None:
    recipe = settled(SMALL)
    before = finetune.fingerprint(lab, recipe)
    assert before == finetune.fingerprint(lab, recipe)
    assert json.loads(json.dumps(before)) == before
    (lab.quantized_dir / MANIFEST).write_text(json.dumps({"fingerprint": {"bits": 8}}))
    other = finetune.fingerprint(lab, recipe)
    assert other != before
    assert other["base"] == {"bits": 8}
    slow = finetune.fingerprint(lab, settled({"finetune.memory": "low"}, base=recipe))
    assert slow == other


def test_a_saved_adapter_that_was_changed_does_not_pass(
    lab: LabFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file, save_file

    from core.finetune import lora_layer, training

    save = lora_layer.save_adapter

    def spoiled(peft_model: Any, folder: Path) -> None:
        save(peft_model, folder)
        tensors = load_file(folder / "adapter_model.safetensors")
        name = next(name for name in tensors if "lora_B" in name)
        tensors[name] = tensors[name] + 3
        save_file(tensors, folder / "adapter_model.safetensors")

    monkeypatch.setattr(training, "save_adapter", spoiled)
    with pytest.raises(StageError, match="not the one that was trained"):
        run(lab)
    assert not lab.finetuned_root.exists()


def test_every_error_here_says_what_to_do(lab: LabFolder) -> None:
    (lab.root / "records.jsonl").write_text("")
    with pytest.raises(LabError) as failure:
        run(lab)
    assert failure.value.hint
