"""A base whose layers stand on several devices, in one process: it learns what it learns on one.

``benchmarks/several_gpus.py --small`` does it on GPUs that other programs have left too little of.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from core.events import RecordingReporter
from core.finetune import launch
from core.finetune.device import decoder_layers, spread_layers
from core.finetune.memory import SPARE
from core.finetune.training import Task, Training
from core.hardware import GpuReading
from core.olive.checkpoint import load_model
from core.options import Auto
from core.recipe import Recipe, recipe_text
from tests.core.finetune.helpers import quantized_tiny, write_records

HERE, THERE = torch.device("cpu"), torch.device("meta")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantized_tiny(tmp_path_factory.mktemp("base"), "llama")


def task(base: Path, folder: Path, name: str, **more: Any) -> Task:
    write_records(folder / "records.jsonl")
    values: dict[str, Any] = {
        "data.file": "records.jsonl",
        "finetune.steps": 8,
        "finetune.rank": 4,
        "finetune.alpha": 8,
        "finetune.batch_size": 3,
        "finetune.dropout": 0.1,
        **{f"finetune.{key}": value for key, value in more.items()},
    }
    recipe = folder / f"{name}.toml"
    recipe.write_text(recipe_text(Recipe().with_values(values)))
    return Task(str(base), str(recipe), str(folder), "", "", str(folder / name))


def test_on_two_devices_it_learns_what_it_learns_on_one(base: Path, tmp_path: Path) -> None:
    one, two = task(base, tmp_path, "one"), task(base, tmp_path, "two")
    alone = Training(one, RecordingReporter()).run()
    spread = Training(two, RecordingReporter(), spread=[HERE, HERE]).run()
    assert spread["layers_on_gpus"] == [1, 1]
    assert "layers_on_gpus" not in alone
    assert spread["loss_curve"] == alone["loss_curve"]
    assert spread["eval_loss_tuned"] == alone["eval_loss_tuned"]
    first, second = (load_file(Path(each.adapter) / "adapter_model.safetensors") for each in (one, two))
    assert first.keys() == second.keys()
    assert all(torch.equal(matrix, second[name]) for name, matrix in first.items())


def test_a_layer_takes_its_input_to_its_device_and_what_is_behind_brings_it_back(base: Path) -> None:
    model: Any = load_model(base)
    spread_layers(model, [HERE, THERE], [1, 1])
    first, last = decoder_layers(model)
    assert {each.device for each in first.state_dict().values()} == {HERE}
    assert {each.device for each in last.state_dict().values()} == {THERE}
    assert model.get_output_embeddings().weight.device == model.get_input_embeddings().weight.device == HERE
    hidden = torch.randn(1, 3, model.config.hidden_size)
    turns = model.model.rotary_emb(hidden, torch.arange(3)[None])
    assert first(hidden, position_embeddings=turns).device == HERE
    behind = last(hidden, position_embeddings=turns)
    assert behind.device == THERE
    with pytest.raises(NotImplementedError, match="meta"):  # where nothing can be brought back from
        model.model.norm(behind)


@pytest.mark.parametrize(
    ("asked", "room", "spread"),
    [
        ("auto", (0.7, 0.7), 2),
        (2, (0.7, 0.7, 0.7), 2),
        (1, (0.7, 0.7), 0),
        ("auto", (1.1, 1.1), 0),
        ("auto", (0.3, 0.3), 0),
        (3, (0.7, 0.7), 0),
    ],
)
def test_it_is_spread_when_no_gpu_has_room_and_all_have(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: int | Auto,
    room: tuple[float, ...],
    spread: int,
) -> None:
    wide = task(base, tmp_path, "x", rank=256, batch_size=1, gpus=asked)
    needed = Training(wide, RecordingReporter()).size.need("low").total / (1 - SPARE)
    cards = [GpuReading(at, "GPU", int(share * needed), 0, None) for at, share in enumerate(room)]
    monkeypatch.setattr(launch, "load_nvml", lambda: object())
    monkeypatch.setattr(launch, "read_gpus", lambda nvml: cards)
    monkeypatch.setattr(launch, "training_device", lambda at: HERE)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = launch.spread_training(wide, asked, len(cards), RecordingReporter())
    assert (0 if found is None else len(found.spread)) == spread
