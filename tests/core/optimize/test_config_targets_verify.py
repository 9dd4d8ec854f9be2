"""End tokens, targets, and what counts as agreement with PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from core.errors import MachineError, RequestError, StageError
from core.optimize import targets
from core.optimize.genai import complete_config, end_tokens
from core.optimize.targets import list_targets, require_target
from core.optimize.verify import choices, compare, demand
from core.providers import PROVIDERS
from core.recipe import Recipe
from tests.tiny_models import SPECIAL_TOKENS, make_tiny, save_tokenizer

END = SPECIAL_TOKENS.index("<|end|>")
TEXT_END = SPECIAL_TOKENS.index("<|endoftext|>")


def tokenizer_folder(folder: Path, template: str, eos: object = TEXT_END) -> Path:
    folder.mkdir(exist_ok=True)
    save_tokenizer(folder)
    (folder / "chat_template.jinja").write_text(template)
    (folder / "config.json").write_text(json.dumps({"eos_token_id": eos}))
    return folder


CHAT = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"


@pytest.mark.parametrize(
    ("template", "recipe", "expected"),
    [
        (CHAT, {}, {TEXT_END, END}),
        ("", {}, {TEXT_END}),
        ("", {"data.template": "{prompt}\n{response}<|end|>"}, {TEXT_END, END}),
        ("", {"data.template": "{prompt}\n{response}"}, {TEXT_END}),
        ("{{ raise_exception('no') }}", {}, {TEXT_END}),
    ],
)
def test_end_of_turn_tokens_are_found(
    tmp_path: Path, template: str, recipe: dict[str, object], expected: set[int]
) -> None:
    folder = tokenizer_folder(tmp_path / "m", template)
    found = end_tokens(folder, Recipe().with_values(recipe))
    assert set(found) == expected
    assert found[0] == TEXT_END


def test_generation_config_adds_end_tokens(tmp_path: Path) -> None:

    folder = tokenizer_folder(tmp_path / "m", "", eos=None)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    recipe = Recipe().with_values({"data.template": "{prompt}\n{response}"})
    assert end_tokens(folder, recipe) == [TEXT_END, 7, 9]


def test_genai_config_is_completed_once(tmp_path: Path) -> None:
    path = tmp_path / "genai_config.json"
    model = {"context_length": 131072, "eos_token_id": 0}
    path.write_text(json.dumps({"model": model, "search": {"past_present_share_buffer": True, "top_k": 50}}))
    assert complete_config(tmp_path, [END, 0])
    made = json.loads(path.read_text())
    assert made["model"]["eos_token_id"] == [0, END]
    assert made["search"]["max_length"] == 4096  # not 131072: the cache is allocated at once
    assert made["search"]["past_present_share_buffer"] is True
    assert made["search"]["do_sample"] is False
    assert not complete_config(tmp_path, [END])


def test_targets_say_what_can_be_done_and_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {(target.provider, target.precision): target for target in list_targets()}
    assert found["CPUExecutionProvider", "int4"].can_run
    npu = found["QNNExecutionProvider", "int4"]
    assert not npu.can_build
    assert npu.why
    assert npu.fix
    with pytest.raises(MachineError):
        require_target("npu", "QNNExecutionProvider", "int4")
    with pytest.raises(RequestError) as caught:
        require_target("cpu", "CPUExecutionProvider", "bf16")
    assert "fp32" in caught.value.hint
    monkeypatch.setattr(sys, "platform", "linux")
    directml = require_target("gpu", "DmlExecutionProvider", "int4")
    assert not directml.can_run, "a part of Windows"
    monkeypatch.setattr(targets, "find_spec", lambda name: None if name == "olive" else object())
    with pytest.raises(MachineError) as missing:
        require_target("cpu", "CPUExecutionProvider", "int4")
    assert "olive-ai" in missing.value.hint


def test_every_provider_is_offered_or_says_why_not_and_what_instead() -> None:
    told = {target.provider for target in list_targets()}
    assert told == set(PROVIDERS)
    for target in list_targets():
        assert target.can_build or not target.can_run
        assert target.can_run or (target.why and target.fix), target


def test_a_provider_that_comes_as_a_library_is_registered_or_named_as_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.optimize import genai

    config: dict[str, Any] = {
        "model": {"decoder": {"session_options": {"provider_options": [{"webgpu": {}}]}}}
    }
    (tmp_path / "genai_config.json").write_text(json.dumps(config))
    registered: list[tuple[str, str]] = []
    runtime = SimpleNamespace(
        Model=lambda folder: folder,
        register_execution_provider_library=lambda *place: registered.append(place),
    )
    monkeypatch.setattr(genai, "import_genai", lambda: runtime)
    monkeypatch.setattr(genai, "_registered", set())
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_webgpu", None)  # as where it is not installed
    with pytest.raises(MachineError) as missing:
        genai.open_model(tmp_path)
    assert missing.value.code == "onnx.provider"
    assert "onnxruntime-ep-webgpu" in missing.value.hint

    plugin = SimpleNamespace(
        get_ep_name=lambda: "WebGpuExecutionProvider", get_library_path=lambda: "/lib.so"
    )
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_webgpu", plugin)
    assert [genai.open_model(tmp_path) for _ in range(2)] == [str(tmp_path)] * 2
    assert registered == [("WebGpuExecutionProvider", "/lib.so")], "once a process"


def test_light_parts_load_nothing_heavy() -> None:
    code = (
        "import sys, core.optimize.targets as t, core.optimize.adapters, core.similarity;"
        "t.list_targets();"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'olive', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_agreement_finds_the_first_token_that_pytorch_would_not_have_chosen(tmp_path: Path) -> None:
    from core.olive.checkpoint import load_model

    model = load_model(make_tiny("llama", tmp_path / "m"), dtype=torch.float32)
    prompts = [[10, 20, 30], [40, 50, 60, 70, 80]]
    answers = []
    for prompt in prompts:
        whole = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=6)[0]
        answers.append(whole[len(prompt) :].tolist())
    good = compare(choices(model, prompts, answers), 0.02)
    assert (good.identical, good.ties, good.places) == (2, 0, ())
    demand("the base", good, 0.02)

    logits = model(torch.tensor([[*prompts[1], *answers[1][:2]]])).logits[0, -1]
    second = int(logits.argsort(descending=True)[1])
    answers[1] = [*answers[1][:2], second]
    found = choices(model, prompts, answers)
    bad = compare(found, 1e-6)
    assert (bad.identical, bad.agreeing, bad.wrong) == (1, 1, (1,))
    assert (bad.places[0].prompt, bad.places[0].token) == (1, 2)
    with pytest.raises(StageError) as caught:
        demand("the base", bad, 1e-6)
    assert "prompt 2 token 3" in caught.value.detail

    place = bad.places[0]
    tie = compare(found, 1.01 * place.gap / place.spread)
    assert (tie.identical, tie.ties, tie.agreeing) == (1, 1, 2)
    rounded = compare(found, 1e-6, rounded=[1])
    assert (rounded.by_rounding, rounded.wrong) == (1, ())
    assert found[1].distance(found[1].logits.detach().numpy() + 0.5) > 0.1
