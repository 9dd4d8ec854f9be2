"""Adapters merged into the weights before they are rounded: the same model, whatever scales the rounding moved."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from core.events import RecordingReporter
from core.files import damage, read_json
from core.folder import LabFolder, adapter_names, merged_folder
from core.optimize import sharing
from core.optimize.adapters import read_lora
from core.optimize.merge import fold_in, scales_between
from tests.core.optimize.labs import add_adapter, onnx_texts, quantized_lab, recipe_with, run_stage
from tests.tiny_models import make_tiny


def test_scales_are_read_off_two_weights_through_rounding() -> None:
    torch.manual_seed(0)
    weight = torch.randn(96, 128)
    rows, columns = torch.rand(96) + 0.5, torch.rand(128) + 0.6
    weight[:, 5], weight[7] = 0, 0
    scaled = rows[:, None] * weight * columns
    step = scaled.abs().amax(dim=1, keepdim=True).clamp(min=1e-9) / 7
    found = scales_between(weight, (scaled / step).round() * step)
    assert found[0][7] == found[1][5] == 1  # nothing is known of what is empty
    whole = (found[0][:, None] * found[1]) / (rows[:, None] * columns)
    kept = torch.ones(96, dtype=torch.bool)
    kept[7] = False
    whole = whole[kept][:, torch.arange(128) != 5]
    assert (whole - 1).abs().max() < 0.2
    assert (whole - 1).square().mean().sqrt() < 0.04


def test_an_adapter_trained_beside_scaled_weights_is_brought_back(tmp_path: Path) -> None:
    """Scales moved from a norm into its readers, and from values into what reads them, as AWQ moves them."""
    from peft import PeftModel

    from core.olive.checkpoint import load_model

    source = make_tiny("llama", tmp_path / "source", dtype="float32", heads=2, kv_heads=2)
    lab = LabFolder(tmp_path / "lab")
    model = load_model(source, dtype=torch.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        for layer in model.model.layers:
            attention, s = layer.self_attn, torch.rand(model.config.hidden_size) * 3 + 0.3
            layer.input_layernorm.weight /= s
            for each in (attention.q_proj, attention.k_proj, attention.v_proj):
                each.weight *= s
            t = torch.rand(attention.v_proj.out_features) * 2 + 0.5
            attention.v_proj.weight /= t[:, None]
            attention.o_proj.weight *= t
    lab.models_dir.mkdir(parents=True)
    model.save_pretrained(lab.quantized_dir)
    add_adapter(lab, "travel", rank=4)
    tuned = PeftModel.from_pretrained(model, str(lab.finetuned_dir("travel"))).eval()
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        expected = tuned(input_ids=ids).logits
        base = tuned.get_base_model()
    folded = fold_in(
        source,
        lab.quantized_dir,
        read_lora(lab.finetuned_dir("travel")),
        tmp_path / "folded",
        report=RecordingReporter(),
    )
    with torch.inference_mode():
        found = load_model(folded, dtype=torch.float32)(input_ids=ids).logits
        plain = load_model(source, dtype=torch.float32)(input_ids=ids).logits
    assert base is not None
    assert (plain - expected).abs().max() > 0.1 * expected.std()
    assert (found - expected).abs().max() < 1e-3 * expected.std()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> LabFolder:
    made = quantized_lab(tmp_path_factory.mktemp("merged"), "llama")
    add_adapter(made, "travel", rank=8, seed=1)
    add_adapter(made, "food", rank=3, seed=2)
    return made


def test_each_adapter_gives_a_model_beside_one_base(lab: LabFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_SMALLEST_BYTES", 0)
    values = {"optimize.adapters": "merged", "model.source": str(lab.root / "source")}
    result, report = run_stage(lab, recipe_with(values))
    assert adapter_names(lab.onnx_dir) == ["travel"]
    assert not (lab.onnx_dir / "adapters").exists()
    assert result["agreement"]["tuned"]["agreeing"] == result["agreement"]["base"]["agreeing"] == 5
    assert 0 < result["kl_to_unmerged"] < 1  # weights that are pure noise round badly
    assert 0 < result["same_word_as_unmerged"] <= 1
    assert any("nats a token" in event.get("text", "") for event in report.events)
    note = read_json(lab.onnx_dir / "merged" / "travel.json")
    assert (note["rank"], note["kl_to_unmerged"]) == (8, result["kl_to_unmerged"])

    weights = lab.onnx_dir / "model.onnx.data"
    before = weights.stat().st_ino
    again, _ = run_stage(lab, recipe_with({**values, "finetune.adapter": "food"}))
    assert again["base_reused"]
    assert weights.stat().st_ino == before
    assert adapter_names(lab.onnx_dir) == ["food", "travel"]
    texts = {name: merged_texts(lab, name) for name in ("food", "travel")}
    assert texts["food"] != texts["travel"]
    assert onnx_texts(lab, None) not in texts.values()

    ends = ("model.onnx.embedding.data", "model.onnx.lm_head.data")
    folders = [lab.onnx_dir, *(merged_folder(lab.onnx_dir, name) for name in ("food", "travel"))]
    for end in ends:
        assert len({(folder / end).stat().st_ino for folder in folders}) == 1
    assert again["shared_bytes"] == sum((lab.onnx_dir / end).stat().st_size for end in ends) > 0
    assert again["merged_bytes"] > again["shared_bytes"]
    # Each folder is whole by itself, wherever it is copied, and what was published is as it was made.
    shutil.copytree(folders[2], lab.root / "elsewhere" / "models" / "onnx")
    assert onnx_texts(LabFolder(lab.root / "elsewhere"), None) == texts["travel"]
    assert damage(lab.onnx_dir, verify=True) == []


def merged_texts(lab: LabFolder, name: str) -> list[list[int]]:
    """What the merged model says by itself."""
    folder = LabFolder(lab.root / f"only-{name}")
    folder.models_dir.mkdir(parents=True, exist_ok=True)
    folder.onnx_dir.symlink_to(merged_folder(lab.onnx_dir, name))
    return onnx_texts(folder, None)
