"""onnxruntime-genai's model builder, called so that it builds what PyTorch computes.

The builder reads the model's configuration in the form that older releases of transformers gave it, and
Olive's packed weights only where a matrix is one layer. What it needs is put right here: in the copy of the
configuration that it holds, and in a view of the checkpoint beside the original, which stays as it is.

Loads torch, transformers and onnxruntime-genai: only for a job's process.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.providers import PROVIDERS


def build(
    checkpoint: Path,
    output: Path,
    *,
    precision: str,
    provider: str,
    options: Mapping[str, Any],
    work: Path,
    trust_remote_code: bool = False,
) -> None:
    """Build ``model.onnx``, its weights, ``genai_config.json`` and the tokenizer from a checkpoint.

    Args:
        checkpoint: a model folder, float or packed by Olive; packed weights go into the graph as they are.
        precision: int4 (for packed weights of any bits), int8, fp16, bf16 or fp32.
        provider: the execution provider that the graph is for, one of :data:`~core.providers.PROVIDERS` with a builder.
        options: further ones of the builder, by its names.
        work: scratch folder.

    Raises:
        NotImplementedError: the builder does not know the architecture, or its kind of rope.
    """
    from core.olive.checkpoint import has_no_zero_points, unfused
    from core.optimize.genai import import_genai

    import_genai()
    from onnxruntime_genai.models import builder

    _mend(builder)
    source = unfused(checkpoint, work / "unfused")
    place = (
        None,
        str(source),
        str(output),
        precision,
        PROVIDERS[provider].builder,
        str(work / "builder-cache"),
    )
    # A cache for a window only can neither be rewound nor, on the CPU, be right for Gemma 2.
    told = {"hf_remote": trust_remote_code, "hf_token": False, "windowed_kv_cache": False, **options}
    if has_no_zero_points(checkpoint):
        told["fuse_qkv"] = False  # it would put together zero points that are not there
    prepared = builder.parse_extra_options(
        *place, [f"{key}={_written(value)}" for key, value in told.items()]
    )
    as_builder_reads(prepared["hf_details"]["hf_config"])
    builder.create_model(*place, **prepared)


def _written(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_builder_reads(config: Any) -> None:
    """Put a transformers configuration into the form in which the builder reads it, in place.

    It takes the kind of long rope from ``type``, which is ``rope_type`` now; Gemma 3's two ropes from two
    fields, which are one dictionary for each kind of layer now; and a layer's window from ``layer_types``,
    which Mistral's and Phi-3's configurations lack, all of whose layers have the window.
    """
    rope = getattr(config, "rope_parameters", None)
    if isinstance(rope, dict) and isinstance(rope.get("full_attention"), dict):
        config.rope_local_base_freq = rope["sliding_attention"]["rope_theta"]
        rope = dict(rope["full_attention"])
        config.rope_parameters = rope
    if isinstance(rope, dict) and "rope_type" in rope:
        rope.setdefault("type", rope["rope_type"])
        if rope["rope_type"] == "yarn":
            rope.update({"beta_fast": rope.get("beta_fast") or 32, "beta_slow": rope.get("beta_slow") or 1})
        if rope["rope_type"] in ("linear", "yarn") and config.architectures == ["LlamaForCausalLM"]:
            # The builder's Llama knows no rope but Llama 3's, and its Mistral, the same graph, all others.
            config.architectures = ["MistralForCausalLM"]
    if getattr(config, "layer_types", None) is None and getattr(config, "sliding_window", None):
        config.layer_types = ["sliding_attention"] * config.num_hidden_layers


def _mend(builder: Any) -> None:
    """Put right where the builder's own classes go wrong, once a process."""
    if hasattr(builder, "_mended"):
        return
    builder._mended = True
    load_weights, make_gemma = builder.Model.load_weights, builder.GemmaModel.__init__
    make_smollm_attention = builder.SmolLM3Model.make_attention
    make_caches = builder.Gemma3Model.make_rotary_embedding_caches_from_scratch

    def whole_norms(self: Any, input_path: str) -> Any:
        """Norms that multiply by ``1 + weight``: the sum is made in float32, not in the checkpoint's 16 bits."""
        weights = load_weights(self, input_path)
        if self.layernorm_attrs["add_offset"]:
            _norms_in_float32(weights)
        return weights

    def exact_scale(self: Any, *args: Any) -> None:
        """The embeddings' scale is the root of their width, not that with two decimals."""
        make_gemma(self, *args)
        self.embed_attrs["scale"] = float(self.hidden_size) ** 0.5

    def without_rope(self: Any, layer_id: int, *args: Any, **kwargs: Any) -> None:
        """SmolLM3's layers without rope get none; the builder gives them the rope as nodes of its own."""
        rope = self.attention_attrs["rope"]
        self.attention_attrs["rope"] = bool(self.no_rope_layers[layer_id])
        make_smollm_attention(self, layer_id, *args, **kwargs)
        self.attention_attrs["rope"] = rope

    def unscaled_window(self: Any) -> Any:
        """In Gemma 3 the factor for a long context is that of the layers without window alone."""
        if hasattr(self, "cos_cache_local_name"):
            self.rope_attrs["rescale_factors"] = 1
        return make_caches(self)

    builder.Model.load_weights, builder.GemmaModel.__init__ = whole_norms, exact_scale
    builder.SmolLM3Model.make_attention = without_rope
    builder.Gemma3Model.make_rotary_embedding_caches_from_scratch = unscaled_window


def _norms_in_float32(weights: Any) -> None:
    """``weights``: a transformers model, or what the builder made of a packed checkpoint."""
    import torch

    if isinstance(weights, torch.nn.Module):
        norms = [module for name, module in weights.named_modules() if name.endswith("norm")]
    else:
        holders = [weights, *weights.layers, *(layer.self_attn for layer in weights.layers)]
        norms = [each for holder in holders for name, each in vars(holder).items() if name.endswith("norm")]
    for norm in norms:
        if norm.weight is not None:
            norm.weight = torch.nn.Parameter(norm.weight.detach().float(), requires_grad=False)
