"""GGUF for llama.cpp and its like, with the Modelfile that makes it a model of Ollama.

Two ways lead there. In most types the adapter is folded in and the weights are written anew. As ``q4_1`` the lab's own
4-bit numbers go over as they are (a block of 32 has a scale and a least value: ``scale`` and ``-scale * zero``), and
the adapter lies beside them as a GGUF of its own, for folding it in would need another rounding.

What is written is read again by the reader of :mod:`core.model.gguf`, and compared with what it was made from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch

from core.errors import RequestError, StageError
from core.events import Reporter
from core.export.card import base_licence
from core.export.gguf_text import compare_text, write_text
from core.export.merged import copy_text, fitting_lora, float_bytes, folded
from core.export.modelfile import modelfile
from core.export.onnx import lab_prompts
from core.export.prompts import put_template, turns_of
from core.export.write import Exported, ExportRequest, into_folder
from core.language import told
from core.model.folder import ModelFacts, model_facts
from core.model.gguf import ARCHITECTURES, check_gguf, config_of, llama3_factors
from core.olive.checkpoint import Packed, matrix_sizes, read_tensors
from core.optimize.adapters import Lora, Pair

if TYPE_CHECKING:
    import gguf

MODEL, ADAPTER = "model.gguf", "adapter.gguf"

_BY_TYPE = {kind: name for name, (kind, _) in ARCHITECTURES.items()} | {"mistral": "llama"}
"""What llama.cpp calls a ``model_type``."""

_ONE_MORE = frozenset({"gemma2", "gemma3"})
"""Architectures whose norms stand in GGUF as what they multiply by: one more than in a checkpoint."""

_TURNED = frozenset({"llama"})
"""Architectures whose q and k rows stand in another order in GGUF: pairs side by side, not in halves."""

_HINT = told("Export another form, such as --to merged, which llama.cpp's own converter may read.")


def run(wanted: ExportRequest) -> Exported:
    """Write the model, the adapter where it lies beside it, and the Modelfile; read them again and compare."""
    checkpoint = wanted.folder.quantized_dir
    facts = model_facts(checkpoint)
    arch = architecture(facts)
    as_packed = wanted.type == "q4_1"
    if as_packed and not facts.quantization:
        raise RequestError(
            told("The lab's model has no 4-bit numbers."),
            told("{checkpoint} is float: quantize.algorithm is none.", checkpoint=checkpoint),
            told("Leave --type out, or choose another."),
            code="export.type",
        )
    if as_packed:
        _refuse_other_packing(checkpoint)
    lora = fitting_lora(wanted)

    def write(folder: Path) -> dict[str, Any]:
        copy_text(checkpoint, folder)
        prompts = lab_prompts(wanted, folder)
        turns = turns_of(prompts)
        notes = put_template(prompts, turns, folder)
        writer = _writer(folder / MODEL, arch, facts)
        if licence := base_licence(wanted).name:
            writer.add_license(licence)
        write_text(writer, folder, prompts, facts)
        tensors = _as_packed(checkpoint) if as_packed else _as_floats(checkpoint, lora, wanted.type)
        _write(writer, arch, facts, tensors, wanted.report)
        _compare(folder / MODEL, facts)
        compare_text(folder / MODEL, folder, prompts, wanted.report)
        beside = as_packed and lora is not None
        if beside and lora is not None:
            _write_adapter(folder / ADAPTER, arch, facts, lora)
        text, more = modelfile(wanted.lab.recipe, prompts, turns, facts, MODEL, ADAPTER if beside else None)
        (folder / "Modelfile").write_text(text, encoding="utf-8")
        for path in folder.iterdir():
            if path.suffix in (".json", ".jinja", ".model", ".txt") or path.is_dir():
                _remove(path)
        return {"architecture": arch, "notes": [*notes, *more]}

    return into_folder(
        wanted, float_bytes(checkpoint, torch.float16) * (2 if wanted.type == "f32" else 1), write
    )


def _remove(path: Path) -> None:
    import shutil

    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def architecture(facts: ModelFacts) -> str:
    """What llama.cpp calls the model's architecture.

    Raises:
        RequestError: it cannot be written as GGUF here.
    """
    arch = _BY_TYPE.get(facts.model_type)
    if arch is None or facts.experts:
        raise RequestError(
            told(
                "Models of the architecture {model_type} cannot be written as GGUF here.",
                model_type=facts.model_type or told("unknown"),
            ),
            told(
                "{path}/config.json: model_type = {model_type!r}; written are {by_type}.",
                path=facts.path,
                model_type=facts.model_type,
                by_type=", ".join(_BY_TYPE),
            ),
            _HINT,
            code="export.architecture",
        )
    config = facts.config
    odd = {
        "sliding_window": facts.model_type in ("mistral", "qwen2", "qwen3") and facts.window,
        "mlp_bias": config.get("mlp_bias"),
        "hidden_act": config.get("hidden_act", "silu") not in ("silu", "gelu_pytorch_tanh"),
    }
    wrong = [key for key, holds in odd.items() if holds]
    if wrong:
        raise _not_in_gguf(facts, wrong[0], config.get(wrong[0]), told("nothing of the kind"))
    return arch


def _not_in_gguf(facts: ModelFacts, key: str, value: Any, instead: Any) -> RequestError:
    return RequestError(
        told("The model has something that its GGUF file cannot carry."),
        told(
            "{path}/config.json: {key} = {value}; llama.cpp would take {instead}.",
            path=facts.path,
            key=key,
            value=str(value)[:120],
            instead=instead if isinstance(instead, str) else str(instead)[:120],
        ),
        _HINT,
        code="export.architecture",
    )


def _refuse_other_packing(checkpoint: Path) -> None:
    for name, tensor in read_tensors(checkpoint):
        if isinstance(tensor, Packed) and tensor.bits == 4 and tensor.group_size % 32:
            raise RequestError(
                told("The lab's 4-bit numbers do not fit GGUF's blocks."),
                told(
                    "{checkpoint}: {name} has groups of {group_size}; q4_1 has blocks of 32.",
                    checkpoint=checkpoint,
                    name=name,
                    group_size=tensor.group_size,
                ),
                told("Choose another --type, or quantize with a quantize.group_size of 32 or more."),
                code="export.packing",
            )


# The settings


def _writer(file: Path, arch: str, facts: ModelFacts) -> gguf.GGUFWriter:
    import gguf

    config, writer = facts.config, gguf.GGUFWriter(str(file), arch)
    writer.add_type("model")
    writer.add_context_length(facts.max_positions)
    writer.add_embedding_length(facts.hidden_size)
    writer.add_feed_forward_length(facts.intermediate_size)
    writer.add_block_count(facts.layers)
    writer.add_head_count(facts.heads)
    writer.add_head_count_kv(facts.kv_heads)
    writer.add_key_length(facts.head_dim)
    writer.add_value_length(facts.head_dim)
    writer.add_layer_norm_rms_eps(float(config.get("rms_norm_eps", 1e-6)))
    writer.add_vocab_size(facts.embedding_rows or facts.vocab_size)
    if arch in ("phi3", "gemma2", "gemma3"):
        writer.add_sliding_window(facts.window)
    if arch == "gemma2":
        writer.add_attn_logit_softcapping(float(config["attn_logit_softcapping"]))
        writer.add_final_logit_softcapping(float(config["final_logit_softcapping"]))
    rope = dict(facts.rope)
    if "full_attention" in rope:
        writer.add_rope_freq_base_swa(float(rope["sliding_attention"]["rope_theta"]))
        rope = dict(rope["full_attention"])
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10000.0)))
    writer.add_rope_dimension_count(int(facts.head_dim * float(rope.get("partial_rotary_factor") or 1.0)))
    _add_stretching(writer, facts, rope)
    return writer


def _add_stretching(writer: gguf.GGUFWriter, facts: ModelFacts, rope: Mapping[str, Any]) -> None:
    """How positions beyond those of the training are turned."""
    import math

    import gguf

    kind = rope.get("rope_type", "default")
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(float(rope["factor"]))
    original = rope.get("original_max_position_embeddings")
    if kind == "yarn" and original:
        writer.add_rope_scaling_orig_ctx_len(int(original))
    if facts.model_type == "phi3":
        begun = int(facts.config.get("original_max_position_embeddings") or original or facts.max_positions)
        writer.add_rope_scaling_orig_ctx_len(begun)
        if kind == "longrope":
            scale = facts.max_positions / begun
            attention = math.sqrt(1 + math.log(scale) / math.log(begun)) if scale > 1 else 1.0
            writer.add_rope_scaling_attn_factors(attention)
            for name in ("long", "short"):
                factors = numpy.asarray(rope[f"{name}_factor"], dtype=numpy.float32)
                writer.add_tensor(f"rope_factors_{name}.weight", factors)
    if kind == "llama3":
        divisors = llama3_factors(
            float(rope["rope_theta"]),
            facts.head_dim,
            factor=float(rope["factor"]),
            low=float(rope["low_freq_factor"]),
            high=float(rope["high_freq_factor"]),
            original=float(rope["original_max_position_embeddings"]),
        )
        writer.add_tensor("rope_freqs.weight", numpy.asarray(divisors, dtype=numpy.float32))


def _compare(file: Path, facts: ModelFacts) -> None:
    """Refuse a model whose configuration does not come back from the file as it was."""
    header = check_gguf(file)
    back = config_of(header)
    config = facts.config
    own = {
        "hidden_size": facts.hidden_size,
        "intermediate_size": facts.intermediate_size,
        "num_hidden_layers": facts.layers,
        "num_attention_heads": facts.heads,
        "num_key_value_heads": facts.kv_heads,
        "head_dim": facts.head_dim,
        "max_position_embeddings": facts.max_positions,
        "rms_norm_eps": config.get("rms_norm_eps", 1e-6),
        "rope_parameters": dict(facts.rope),
    }
    for key in ("query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping"):
        if back.get(key) is not None or config.get(key) is not None:
            own[key] = config.get(key)
    for key, value in own.items():
        if not _alike(value, back.get(key)):
            raise _not_in_gguf(facts, key, value, back.get(key))
    wanted = _layer_windows(header.architecture, facts)
    if facts.windows and tuple(map(bool, facts.windows)) != wanted:
        raise _not_in_gguf(
            facts, "layer_types", config.get("layer_types"), told("another order of layers with a window")
        )


def _layer_windows(arch: str, facts: ModelFacts) -> tuple[bool, ...]:
    every = {"gemma3": 6, "gemma2": 2}.get(arch, 0)
    return (
        tuple(bool(every) and (at + 1) % every != 0 for at in range(facts.layers))
        if every
        else ((True,) * facts.layers)
    )


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        left, right = _without_usual(one), _without_usual(other)
        return left.keys() == right.keys() and all(_alike(left[key], right[key]) for key in left)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) <= 1e-5 * max(abs(one), abs(other))
    return bool(one == other)


def _without_usual(rope: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of positions without those that say what holds anyway."""
    usual = {"partial_rotary_factor": 1.0, "beta_fast": 32, "beta_slow": 1}
    noted = {key: value for key, value in rope.items() if value is not None and usual.get(key) != value}
    noted.pop("type", None)  # an older name of rope_type
    if noted.get("rope_type") == "longrope":
        noted.pop("factor", None)  # follows from the two lengths
    return noted


# The weights


def _as_floats(checkpoint: Path, lora: Lora | None, type: str) -> Iterator[tuple[str, Any, str]]:
    for name, tensor in folded(checkpoint, lora):
        yield name, tensor, type


def _as_packed(checkpoint: Path) -> Iterator[tuple[str, Any, str]]:
    for name, tensor in read_tensors(checkpoint):
        if isinstance(tensor, Packed) and tensor.bits == 4:
            yield name, tensor, "q4_1"
        else:
            yield name, tensor.weight() if isinstance(tensor, Packed) else tensor, "q8_0"


def _write(
    writer: gguf.GGUFWriter,
    arch: str,
    facts: ModelFacts,
    tensors: Iterator[tuple[str, Any, str]],
    report: Reporter,
) -> None:
    import gguf

    total = len(matrix_sizes(facts.path))

    names = _names(arch, facts)
    most: dict[str, int] = {}
    for done, (name, tensor, type) in enumerate(tensors):
        report.check_cancelled()
        report.progress(told("Writing the weights"), min(done, total), total)
        if name.endswith("rotary_emb.inv_freq"):
            continue
        noted = names.get_name(name, (".weight", ".bias"))
        if noted is None:
            raise _not_in_gguf(facts, name, told("a tensor"), told("no such tensor"))
        tensor = _turned(tensor, name, arch, facts)
        if isinstance(tensor, torch.Tensor):
            tensor = tensor.float()
            if arch in _ONE_MORE and name.endswith("norm.weight"):
                tensor = tensor + 1
        kind, data = _stored(tensor, type, name)
        most[kind.name] = most.get(kind.name, 0) + data.nbytes
        writer.add_tensor(noted, data, raw_dtype=kind)
    fullest = max(most, key=lambda kind: most[kind])
    writer.add_file_type(gguf.LlamaFileType[{"F32": "ALL_F32"}.get(fullest, f"MOSTLY_{fullest}")])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _finish(writer)


def _names(arch: str, facts: ModelFacts) -> gguf.TensorNameMap:
    import gguf

    number = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == arch)
    return gguf.get_tensor_name_map(number, facts.layers)


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _stored(tensor: torch.Tensor | Packed, type: str, name: str) -> tuple[gguf.GGMLQuantizationType, Any]:
    """A tensor in the form in which the file has it."""
    import gguf

    kinds = gguf.GGMLQuantizationType
    if isinstance(tensor, Packed):
        return kinds.Q4_1, _blocks(tensor)
    array = tensor.numpy()
    if array.ndim != 2:
        return kinds.F32, array.astype(numpy.float32)
    if type == "q8_0" and array.shape[1] % 32:
        type = "f16"
    if type == "f16" and float(numpy.abs(array).max(initial=0)) > 65504:
        raise StageError(
            told("The model's numbers do not fit float16."),
            told("{name}.", name=name),
            told("Export it with --type bf16."),
            code="export.type",
        )
    kind = kinds[type.upper()]
    if kind is kinds.F16:
        return kind, array.astype(numpy.float16)
    return kind, array if kind is kinds.F32 else gguf.quants.quantize(array, kind)


def _blocks(packed: Packed) -> numpy.ndarray[Any, Any]:
    """Q4_1: for 32 numbers the scale and the least value as float16, then the codes, the first 16 in the low halves."""
    rows, columns = packed.codes.shape
    each = packed.group_size // 32
    scales = packed.scales.float().repeat_interleave(each, dim=1)
    least = -scales * packed.zeros.float().repeat_interleave(each, dim=1)
    codes = packed.codes.view(rows, columns // 32, 2, 16)
    halves = (codes[:, :, 0] | (codes[:, :, 1] << 4)).numpy()
    head = torch.stack((scales, least), dim=-1).to(torch.float16).numpy().view(numpy.uint8)
    return numpy.concatenate([head.reshape(rows, columns // 32, 4), halves], axis=-1).reshape(rows, -1)


def _turned(tensor: Any, name: str, arch: str, facts: ModelFacts) -> Any:
    """Rows of q and k in the order that llama.cpp takes them in."""
    if arch not in _TURNED:
        return tensor
    heads = facts.heads if ".q_proj." in name else facts.kv_heads if ".k_proj." in name else 0
    if not heads:
        return tensor
    if isinstance(tensor, Packed):
        codes, scales, zeros = (_pairs(each, heads) for each in (tensor.codes, tensor.scales, tensor.zeros))
        return Packed(codes, scales, zeros, tensor.bits)
    return _pairs(tensor, heads)


def _pairs(rows: torch.Tensor, heads: int) -> torch.Tensor:
    shape = rows.shape
    return (
        rows.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).transpose(1, 2).reshape(shape).contiguous()
    )


def _write_adapter(file: Path, arch: str, facts: ModelFacts, lora: Lora) -> None:
    """The adapter as llama.cpp takes one: A and B of each matrix, and one alpha for all."""
    import gguf

    writer, names = gguf.GGUFWriter(str(file), arch), _names(arch, facts)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(lora.rank))
    for module, pair in lora.pairs.items():
        noted = names.get_name(f"{module}.weight", (".weight",))
        if noted is None:
            raise _not_in_gguf(facts, module, told("an adapter"), told("no such matrix"))
        a, b = _scaled(pair, lora.rank)
        writer.add_tensor(f"{noted}.lora_a", a.contiguous().numpy())
        writer.add_tensor(f"{noted}.lora_b", _turned(b, f"{module}.weight", arch, facts).contiguous().numpy())
    _finish(writer)


def _scaled(pair: Pair, alpha: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B such that alpha by the pair's own rank is their scale."""
    return pair.a.float(), pair.b.float() * (pair.scale * pair.a.shape[0] / alpha)
