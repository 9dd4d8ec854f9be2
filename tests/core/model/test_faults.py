"""Each fault of a source model is told before the work by its own code, and what its hint says works."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from core import Lab
from core.check import FAIL, WARN, require, run_checks
from core.errors import RequestError
from core.events import Reporter
from core.model.auto import Settled
from core.model.faults import Fault, faults, refuse
from core.model.folder import check_folder, model_facts
from core.model.load import check_tensors
from core.model.sources import resolve_model
from core.model.template import PLAIN
from core.model.text import read_text
from core.model.tokenizer import ModelTokenizer
from tests.recipes import settled
from tests.tiny_models import ARCHITECTURES, make_tiny

FITTING = {"quantize.group_size": 16, "data.max_seq_len": 256}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    root = tmp_path_factory.mktemp("made")

    def make(arch: str) -> Path:
        return root / arch if (root / arch).exists() else make_tiny(arch, root / arch)

    return make


@pytest.fixture
def model(made: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made("llama"), tmp_path / "model"))


def recipe(**values: Any) -> Settled:
    return settled({**FITTING, **{k.replace("__", "."): v for k, v in values.items()}})


def found(folder: Path, **values: Any) -> dict[str, Fault]:
    return {fault.code: fault for fault in faults(model_facts(folder), recipe(**values))}


def change_config(folder: Path, **values: Any) -> None:
    old = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**old, **values}))


def change_tensors(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_whole_model_has_no_fault(arch: str, made: Callable[..., Path]) -> None:
    assert found(made(arch)) == {}
    assert refuse(made(arch), recipe(), Reporter()) == model_facts(made(arch))


# --- tokens -----------------------------------------------------------------------------------------


def cut_embeddings(folder: Path, rows: int) -> None:
    def cut(tensors: dict[str, Any]) -> None:
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = tensors[name][:rows].clone()

    change_tensors(folder, cut)
    change_config(folder, vocab_size=rows)


def test_tokens_beyond_the_embeddings_are_named_with_both_numbers(model: Path, tmp_path: Path) -> None:
    cut_embeddings(model, 380)
    fault = found(model)["model.tokens-beyond-embeddings"]
    assert fault.stops
    assert "up to 383" in fault.detail
    assert "380 rows" in fault.detail
    assert "(380)" in fault.detail
    assert "and 1 more" in fault.detail

    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    assert f"resize_token_embeddings({len(tokenizer)})" in fault.hint
    loaded.resize_token_embeddings(len(tokenizer))
    loaded.save_pretrained(tmp_path / "mended")
    tokenizer.save_pretrained(tmp_path / "mended")
    assert found(tmp_path / "mended") == {}


def add_token(folder: Path, text: str, special: bool) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    token = {"id": 384, "content": text, "special": special, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False}  # fmt: skip
    content["added_tokens"].append(token)
    (folder / "tokenizer.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("special", "template", "stops"),
    [(True, "", False), (False, "", True), (True, "{{ '<|image|>' }}", True)],
)
def test_a_token_that_never_comes_up_does_no_harm(
    special: bool, template: str, stops: bool, model: Path
) -> None:
    """Gemma 3's text models have one token more than embeddings, for pictures that they do not see."""
    add_token(model, "<|image|>", special)
    if template:
        (model / "chat_template.jinja").write_text(template)
    fault = found(model)["model.tokens-beyond-embeddings"]
    assert fault.stops is stops
    assert "'<|image|>' (384)" in fault.detail


# --- tensors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_weight_that_is_no_number_stops_the_stage_and_the_check(
    value: str, model: Path, tmp_path: Path
) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    change_tensors(model, lambda tensors: tensors[name].view(-1).__setitem__(3, float(value)))
    with pytest.raises(RequestError) as caught:
        refuse(model, recipe(), Reporter())
    assert caught.value.code == "model.not-finite"
    assert f"{name}[0, 3] is {'NaN' if value == 'nan' else 'Inf'}" in caught.value.detail
    lab = Lab.create(tmp_path / "lab", model=str(model))
    with pytest.raises(RequestError, match="asked for") as asked:
        require(lab, ["quantize"])
    assert name in asked.value.detail


def test_a_missing_head(model: Path) -> None:
    change_tensors(model, lambda tensors: tensors.pop("lm_head.weight"))
    fault = found(model)["model.no-head"]
    assert "no lm_head.weight" in fault.detail
    change_config(model, tie_word_embeddings=True)  # what the hint says
    assert found(model) == {}
    check_tensors(model)


@pytest.mark.parametrize("arch", [arch for arch in ARCHITECTURES if arch != "smollm"])
def test_every_tensor_that_is_taken_away_is_missed(
    arch: str, made: Callable[..., Path], tmp_path: Path
) -> None:
    names = sorted(load_file(made(arch) / "model.safetensors"))
    for number, name in enumerate(names):
        folder = Path(shutil.copytree(made(arch), tmp_path / str(number)))
        change_tensors(folder, lambda tensors, name=name: tensors.pop(name))  # type: ignore[misc]
        stopping = [fault for fault in found(folder).values() if fault.stops]
        assert any(name in fault.detail for fault in stopping), name
        shutil.rmtree(folder)


def test_a_tensor_that_no_layer_has_is_missed_too(model: Path) -> None:
    def without(tensors: dict[str, Any]) -> None:
        for layer in (0, 1):
            del tensors[f"model.layers.{layer}.self_attn.v_proj.weight"]

    change_tensors(model, without)
    assert "layers.0.self_attn.v_proj.weight" in found(model)["model.missing-tensors"].detail


@pytest.mark.parametrize(
    "config",
    [{"intermediate_size": 96}, {"hidden_size": 32}, {"num_key_value_heads": 4}, {"vocab_size": 400}],
)
def test_sizes_that_are_not_those_of_the_configuration(config: dict[str, Any], model: Path) -> None:
    change_config(model, **config)
    fault = found(model)["model.wrong-shape"]
    assert "model.safetensors" in fault.detail
    with pytest.raises(RequestError):
        check_tensors(model)


def test_fewer_layers_than_the_configuration_says(model: Path) -> None:
    change_config(model, num_hidden_layers=4)
    fault = found(model)["model.layers"]
    assert fault.stops
    assert "none of layer 2" in fault.detail
    change_config(model, num_hidden_layers=1)
    assert not found(model)["model.layers"].stops


def test_an_architecture_with_other_names_is_asked_of_transformers(model: Path) -> None:
    change_tensors(model, lambda tensors: tensors.pop("model.layers.0.self_attn.o_proj.weight"))
    with pytest.raises(RequestError) as caught:
        check_tensors(model)
    assert caught.value.code == "model.missing-tensors"
    assert "model.layers.0.self_attn.o_proj.weight" in caught.value.detail


def test_pickled_weights_are_refused_and_what_the_hint_says_works(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    torch.save(tensors, model / "pytorch_model.bin")
    with pytest.raises(RequestError) as caught:
        resolve_model(str(model), model, Reporter())
    assert caught.value.code == "model.pickled"
    line = shlex.split(caught.value.hint[caught.value.hint.index("python -c") :])
    subprocess.run([sys.executable, *line[1:]], check=True, capture_output=True)
    resolve_model(str(model), model, Reporter())
    again = load_file(model / "model.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


def test_an_index_that_names_a_pickle_is_refused(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    torch.save(tensors, model / "weights.bin")
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "weights.bin")}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(RequestError, match="damaged"):
        resolve_model(str(model), model, Reporter())


# --- what kind of folder it is ------------------------------------------------------------------------


def test_an_adapter_beside_the_model_would_replace_it(model: Path) -> None:
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "someone/other", "r": 4}
    (model / "adapter_config.json").write_text(json.dumps(adapter))
    fault = found(model)["model.adapter"]
    assert fault.stops
    assert "someone/other" in fault.detail


def test_an_adapter_in_the_place_of_a_model_is_refused_by_check(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": "someone/base"})
    )
    lab = Lab.create(tmp_path / "lab", model=str(folder))
    check = next(each for each in run_checks(lab.root) if each.name == "model")
    assert (check.state, check.code) == (FAIL, "model.adapter")
    assert "someone/base" in check.fix
    with pytest.raises(RequestError) as caught:
        require(lab, ["quantize"])
    assert caught.value.code == "model.adapter"


def test_leftovers_are_told_and_not_counted_twice(model: Path, tmp_path: Path) -> None:
    shutil.copy(model / "model.safetensors", model / "consolidated.safetensors")
    (model / "optimizer.pt").write_bytes(b"x")
    fault = found(model)["model.leftovers"]
    assert not fault.stops
    assert "consolidated.safetensors, optimizer.pt" in fault.detail
    lab = Lab.create(tmp_path / "lab", model=str(model))
    check = next(each for each in run_checks(lab.root) if each.code == "model.leftovers")
    assert check.state == WARN


@pytest.mark.parametrize("method", ["awq", "gptq", "fp8", "bitsandbytes"])
def test_packed_models_are_refused_with_the_method(method: str, model: Path) -> None:
    change_config(model, quantization_config={"quant_method": method})
    for algorithm in ("awq", "none"):
        fault = found(model, quantize__algorithm=algorithm)["model.quantized"]
        assert method in fault.detail
        assert fault.stops


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}, "experts"),
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "t5"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}}, "yarn"),
    ],
)
def test_what_the_builder_cannot_make_is_refused_first(
    config: dict[str, Any], word: str, model: Path
) -> None:
    change_config(model, **config)
    fault = found(model)["model.architecture"]
    assert fault.stops
    assert word in fault.detail


# --- what the recipe asks ---------------------------------------------------------------------------


def test_a_group_size_names_the_matrix_and_the_sizes_that_fit(tmp_path: Path) -> None:
    folder = make_tiny("llama", tmp_path / "m", hidden=64, intermediate=96)
    fault = found(folder, quantize__group_size=64)["model.group-size"]
    assert "model.layers.0.mlp.down_proj has 96 inputs" in fault.detail
    assert "quantize.group_size = 32; 16 would do" in fault.hint
    for size in (32, 16):
        assert found(folder, quantize__group_size=size) == {}
    # Without the quantize step, optimize rounds by the same groups.
    keep = {"quantize__algorithm": "none", "quantize__group_size": 64}
    assert "model.group-size" in found(folder, **keep, optimize__precision="int4")
    assert "model.group-size" not in found(folder, **keep, optimize__precision="fp32")


def test_a_context_shorter_than_the_rows_is_told(model: Path) -> None:
    fault = found(model, data__max_seq_len=1024)["model.context"]
    assert not fault.stops
    assert found(model, data__max_seq_len=512) == {}
    assert "data.max_seq_len = 512" in fault.hint


def test_a_model_in_the_place_of_an_adapter(model: Path, tmp_path: Path) -> None:
    lab = Lab.create(tmp_path / "lab", model=str(model))
    shutil.copytree(model, lab.folder.finetuned_dir(lab.recipe.finetune.adapter))
    with pytest.raises(RequestError) as caught:
        require(lab, ["optimize"])
    assert caught.value.code == "adapter.is-model"
    assert str(lab.folder.finetuned_dir(lab.recipe.finetune.adapter)) in caught.value.detail


def test_what_quantize_made_goes_on_without_quantizing_again(model: Path, tmp_path: Path) -> None:
    change_config(model, quantization_config={"quant_method": "olive", "bits": 4, "group_size": 16})
    assert found(model)["model.quantized"].hint.endswith('quantize.algorithm = "none".')
    assert found(model, quantize__algorithm="none") == {}


# --- what fine-tuning and converting leave ------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2])
def test_an_adapter_that_was_not_merged_is_told_as_such_alone(layers: int, model: Path) -> None:
    """Transformers would leave it out, and all would go on with the model as it was before."""

    def wrap(tensors: dict[str, Any]) -> None:
        for layer in range(layers):
            name = f"model.layers.{layer}.self_attn.q_proj"
            tensors[f"{name}.lora_A.default.weight"] = torch.zeros(8, 64)
            tensors[f"{name}.lora_B.default.weight"] = torch.zeros(64, 8)

    change_tensors(model, wrap)
    faults_ = found(model)
    assert list(faults_) == ["model.not-merged"]
    assert "merge_and_unload" in faults_["model.not-merged"].hint
    with pytest.raises(RequestError) as caught:
        check_tensors(model)
    assert caught.value.code == "model.not-merged"


@pytest.mark.parametrize("prefix", ["base_model.model.", "module.", "_orig_mod."])
def test_a_wrapper_before_every_name(prefix: str, model: Path) -> None:
    change_tensors(model, lambda tensors: [tensors.update({prefix + k: tensors.pop(k)}) for k in [*tensors]])
    fault = found(model)["model.names"]
    assert fault.stops
    assert f"Take {prefix!r} from the start" in fault.hint
    change_tensors(
        model, lambda tensors: [tensors.update({k.removeprefix(prefix): tensors.pop(k)}) for k in [*tensors]]
    )
    assert found(model) == {}


def test_names_of_the_bare_decoder_are_read(model: Path) -> None:
    change_tensors(
        model,
        lambda tensors: [tensors.update({k.removeprefix("model."): tensors.pop(k)}) for k in [*tensors]],
    )
    assert found(model) == {}
    check_tensors(model)


def add_biases(folder: Path) -> None:
    def add(tensors: dict[str, Any]) -> None:
        for name in [each for each in tensors if each.endswith("_proj.weight") and "self_attn" in each]:
            tensors[name.removesuffix("weight") + "bias"] = torch.ones(len(tensors[name]))

    change_tensors(folder, add)


def test_biases_that_the_configuration_has_no_place_for(model: Path) -> None:
    add_biases(model)
    fault = found(model)["model.unread-tensors"]
    assert fault.stops
    assert "k_proj.bias" in fault.detail
    assert "attention_bias" in fault.hint
    with pytest.raises(RequestError) as caught:
        check_tensors(model)
    assert caught.value.code == "model.unread-tensors"
    change_config(model, attention_bias=True)
    assert found(model) == {}
    check_tensors(model)


def test_what_lies_beside_the_language_model_is_said(model: Path) -> None:
    change_tensors(model, lambda tensors: tensors.update({"v_head.summary.weight": torch.zeros(1, 4)}))
    fault = found(model)["model.unread-tensors"]
    assert not fault.stops
    assert "v_head.summary.weight" in fault.detail


def test_biases_that_are_not_there(model: Path) -> None:
    change_config(model, attention_bias=True)
    assert "q_proj.bias" in found(model)["model.missing-tensors"].detail


def test_frequencies_of_older_checkpoints_do_no_harm(model: Path) -> None:
    change_tensors(
        model,
        lambda tensors: tensors.update(
            {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(8) for layer in range(2)}
        ),
    )
    assert found(model) == {}
    check_tensors(model)


def test_an_output_matrix_of_its_own_in_a_tied_model(model: Path) -> None:
    change_config(model, tie_word_embeddings=True)
    fault = found(model)["model.two-heads"]
    assert fault.stops
    assert "tie_word_embeddings = false" in fault.hint
    change_config(model, tie_word_embeddings=False)
    assert found(model) == {}
    change_config(model, tie_word_embeddings=True)
    change_tensors(
        model,
        lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}),
    )
    assert found(model) == {}


def test_numbers_too_large_for_the_type_they_are_read_as(model: Path) -> None:
    change_config(model, dtype="float16")
    change_tensors(model, lambda tensors: tensors["model.layers.1.mlp.up_proj.weight"][2].fill_(7e4))
    with pytest.raises(RequestError) as caught:
        refuse(model, recipe(), Reporter())
    assert caught.value.code == "model.too-large"
    assert "model.layers.1.mlp.up_proj.weight[2, 0] and 63 more" in caught.value.detail
    change_config(model, dtype="float32")
    refuse(model, recipe(), Reporter())


def test_whole_numbers_are_packed_weights(model: Path) -> None:
    change_tensors(
        model,
        lambda tensors: tensors.update({k: v.to(torch.int8) for k, v in tensors.items() if v.dim() == 2}),
    )
    assert "8-bit integers" in found(model)["model.quantized"].detail


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_a_pointer_in_the_place_of_a_file(name: str, model: Path) -> None:
    (model / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 99\n")
    with pytest.raises(RequestError) as caught:
        check_folder(model)
    assert caught.value.code == "model.damaged"
    assert name in caught.value.detail
    assert caught.value.hint.endswith("lfs pull")


def test_an_adapter_with_a_configuration_beside_it_is_still_an_adapter(model: Path) -> None:
    (model / "model.safetensors").rename(model / "adapter_model.safetensors")
    (model / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "me/base"}')
    with pytest.raises(RequestError) as caught:
        check_folder(model)
    assert caught.value.code == "model.adapter"
    assert "me/base" in caught.value.hint


def test_an_index_that_transformers_does_not_read(model: Path) -> None:
    (model / "model.safetensors").rename(model / "part.safetensors")
    names = dict.fromkeys(load_file(model / "part.safetensors"), "part.safetensors")
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    with pytest.raises(RequestError, match=r"index cannot be read|damaged"):
        model_facts(model)
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    refuse(model, recipe(), Reporter())


def test_an_architecture_that_is_not_the_model_types(model: Path) -> None:
    change_config(model, architectures=["MistralForCausalLM"])
    fault = found(model)["model.architecture"]
    assert "a LlamaForCausalLM" in fault.detail
    assert "LlamaForCausalLM" in fault.hint


# --- templates, and folders that are not the model's ----------------------------------------------------


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for m in messages %}{{ m.content }", "broken"),
        ("{{ raise_exception('never') }}", "never"),
        ("{{ messages[-1].content }}", "turn 1"),
        (
            "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}",
            "turn 1",
        ),
    ],
)
def test_a_template_that_writes_no_conversation_is_the_models_fault(
    template: str, words: str, model: Path
) -> None:
    (model / "chat_template.jinja").write_text(template)
    fault = found(model)["model.template"]
    assert fault.stops
    assert words in fault.detail
    assert found(model, data__template="Q: {prompt}\nA: {response}") == {}


@pytest.mark.parametrize("needs", ["messages[0].role == 'system'", "messages[0].role == 'user'"])
def test_a_template_that_needs_a_system_message_or_knows_none_will_do(needs: str, model: Path) -> None:
    template = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").write_text(
        f"{{% if not ({needs}) %}}{{{{ raise_exception('no') }}}}{{% endif %}}{template}"
    )
    assert found(model) == {}


def test_several_templates_without_a_default_are_not_none(model: Path) -> None:
    """They were taken for a base model's, and plain words were used."""
    text = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").unlink()
    content = json.loads((model / "tokenizer_config.json").read_text())
    content["chat_template"] = [{"name": name, "template": text} for name in ("tool_use", "rag")]
    (model / "tokenizer_config.json").write_text(json.dumps(content))
    fault = found(model, data__template=PLAIN)["model.template"]
    assert "'tool_use', 'rag'" in fault.detail
    (model / "chat_template.jinja").write_text(text)
    assert found(model) == {}


@pytest.mark.parametrize("inside", ["checkpoint-20", "snapshots/abc"])
def test_the_folder_around_a_model_names_the_model(inside: str, model: Path, tmp_path: Path) -> None:
    around = tmp_path / "around"
    (around / inside).parent.mkdir(parents=True)
    model.rename(around / inside)
    with pytest.raises(RequestError) as caught:
        check_folder(around)
    assert caught.value.hint == f"Set model.source to a folder in it: {around / inside}."
    check_folder(around / inside)


def test_what_is_not_a_model_is_told_by_what_it_is(model: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        check_folder(model / "model.safetensors")
    assert str(model) + "." in caught.value.hint
    (model / "model.safetensors").rename(model / "model.onnx")
    with pytest.raises(RequestError, match="ONNX model cannot be"):
        check_folder(model)
    with pytest.raises(RequestError, match="a lab's folder"):
        check_folder(Lab.create(tmp_path / "lab", model="rehearsal").folder.root)


@pytest.mark.parametrize("eos", [None, 9999])
def test_a_model_that_nothing_ends_is_told(eos: int | None, model: Path) -> None:
    (model / "chat_template.jinja").unlink()
    (model / "generation_config.json").unlink()
    content = json.loads((model / "tokenizer_config.json").read_text())
    del content["eos_token"]
    (model / "tokenizer_config.json").write_text(json.dumps(content))
    change_config(model, eos_token_id=eos)
    fault = found(model, data__template=PLAIN)["model.no-end"]
    assert not fault.stops
    text = read_text(model)
    assert ModelTokenizer.read(model, text.ends).ends == ()
    content["eos_token"] = "<|end|>"
    (model / "tokenizer_config.json").write_text(json.dumps(content))
    change_config(model, eos_token_id=4)
    assert found(model, data__template=PLAIN) == {}
