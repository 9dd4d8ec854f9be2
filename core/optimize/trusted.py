"""What an ONNX model's folder may ask of the runtime: known settings, and files of its own.

onnxruntime-genai does what ``genai_config.json`` says, and that can be to load a native library, to write a
profile, or to read weights from anywhere. Such a folder may have been fetched from somebody else, so the keys
are those that a text model needs, and every other is refused by name. Light: nothing of the runtime is imported.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.errors import RequestError
from core.files import small_bytes
from core.formats import some
from core.language import told
from core.model.inside import refuse_links, refuse_name
from core.model.protobuf import fields

CONFIG_FILE = "genai_config.json"

_ANY = None
"""Names of tensors and numbers, in any form."""
_SESSION = {
    "log_id",
    "log_severity_level",
    "log_verbosity_level",
    "intra_op_num_threads",
    "inter_op_num_threads",
    "enable_cpu_mem_arena",
    "enable_mem_pattern",
    "graph_optimization_level",
    "disable_cpu_ep_fallback",
    "disable_quant_qdq",
    "enable_quant_qdq_cleanup",
    "use_env_allocators",
    "ep.cuda.fpa_intb_gemm",
    "optimization.disable_specified_optimizers",
    "session.use_device_allocator_for_initializers",
}
_PROVIDERS: dict[str, Any] = {
    "cpu": {},
    "cuda": dict.fromkeys(
        (
            "enable_cuda_graph",
            "device_id",
            "use_tf32",
            "gpu_mem_limit",
            "arena_extend_strategy",
            "enable_skip_layer_norm_strict_mode",
            "prefer_nhwc",
            "cudnn_conv_algo_search",
        )
    ),
    "dml": dict.fromkeys(("enable_graph_capture", "device_index", "performance_preference")),
    "webgpu": dict.fromkeys(("enableGraphCapture", "validationMode", "multiRotaryCacheConcatOffset")),
    "NvTensorRtRtx": dict.fromkeys(("enable_cuda_graph", "multi_rotary_cache_concat_offset")),
}
_KNOWN: dict[str, Any] = {
    "model": {
        **dict.fromkeys(
            (
                "type",
                "vocab_size",
                "context_length",
                "bos_token_id",
                "eos_token_id",
                "pad_token_id",
                "sep_token_id",
                "decoder_start_token_id",
                "bot_token_id",
                "eot_token_id",
                "bor_token_id",
                "eor_token_id",
                "image_token_id",
            )
        ),
        "decoder": {
            **dict.fromkeys(
                (
                    "filename",
                    "hidden_size",
                    "head_size",
                    "num_attention_heads",
                    "num_key_value_heads",
                    "num_hidden_layers",
                    "inputs",
                    "outputs",
                    "sliding_window",
                    "layer_types",
                    "conv_cache_size",
                    "state_groups",
                    "state_update_capacity",
                )
            ),
            "session_options": {**dict.fromkeys(_SESSION), "provider_options": [_PROVIDERS]},
        },
    },
    "search": dict.fromkeys(
        (
            "diversity_penalty",
            "do_sample",
            "early_stopping",
            "length_penalty",
            "max_length",
            "min_length",
            "no_repeat_ngram_size",
            "num_beams",
            "num_return_sequences",
            "past_present_share_buffer",
            "repetition_penalty",
            "temperature",
            "top_k",
            "top_p",
            "random_seed",
            "chunk_size",
        )
    ),
}
"""Every key that is taken; a dict or list of one says what may stand below it, None that it is not looked at."""


def check_onnx_folder(folder: Path) -> None:
    """Refuse an ONNX model whose configuration, links or graph reach for more than a text model needs.

    To be called before the runtime is given the folder.

    Raises:
        RequestError: with the key, link or tensor, and the file.
    """
    config = check_config(folder)
    refuse_links(folder, below=True)
    check_graph(folder / graph_name(config))


def check_config(folder: Path) -> dict[str, Any]:
    """The folder's ``genai_config.json``, if every key in it is a known one and its graph lies in the folder.

    Raises:
        RequestError: it cannot be read, or it has a key that is not known; each is named.
    """
    file = folder / CONFIG_FILE
    twice: list[str] = []

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # The runtime obeys both of two like keys, of which a reader here would see the last.
        keys = [key for key, _ in pairs]
        twice.extend(key for key in dict.fromkeys(keys) if keys.count(key) > 1)
        return dict(pairs)

    try:
        config = json.loads(small_bytes(file), object_pairs_hook=once)
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(
            told("The model is not whole."),
            told("{file} is not readable: {error}.", file=file, error=error),
            told("Make the model again, or fetch it again."),
            code="onnx.config",
        ) from None
    unknown = list(_unknown(config, _KNOWN, "")) + [
        told("{key}, which is there twice", key=key) for key in twice
    ]
    if unknown:
        raise RequestError(
            told("The model's configuration asks for what a text model does not need."),
            told("{file}: {unknown}.", file=file, unknown=some(unknown, 5)),
            told(
                "Such settings can load native code or read other files. If you know what each is for "
                "and that the model does without, remove it from that file; else do not use this model."
            ),
            code="onnx.settings",
        )
    refuse_name(file, "model.decoder.filename", graph_name(config))
    return config if isinstance(config, dict) else {}


def graph_name(config: Any) -> str:
    """The graph's file, as a configuration names it."""
    found = config.get("model", {}).get("decoder", {}).get("filename", "model.onnx")
    return found if isinstance(found, str) else ""


def _unknown(found: Any, known: Any, where: str) -> Iterator[str]:
    if known is _ANY:
        return
    if isinstance(known, list):
        for item in found if isinstance(found, list) else [found]:
            yield from _unknown(item, known[0], where)
        return
    if not isinstance(found, dict):
        yield told("{where} is no object", where=where or told("the whole"))
        return
    for key, value in found.items():
        name = told("{where}.{key}", where=where, key=key) if where else key
        if key not in known:
            yield name
        else:
            yield from _unknown(value, known[key], name)


_PARTS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {},
}
"""The fields of ONNX's messages (onnx.proto) through which tensors are reached, by number."""
_OPERATOR = 4
"""``NodeProto.op_type``."""


def check_graph(graph: Path) -> None:
    """Refuse a graph with weights outside its folder, or with a part that was compiled for a device.

    The file is read in the form of protocol buffers, so that no ONNX package is needed where the model is only
    talked to.

    Raises:
        RequestError: with the place of the weights, or the file is no graph.
    """
    places: set[str] = set()
    try:
        with graph.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for kind, fields in _messages(data):
                if kind == "entry" and fields.get(1) == b"location":
                    places.add(fields.get(2, b"").decode())
                elif kind == "node" and fields.get(_OPERATOR) == b"EPContext":
                    raise RequestError(
                        told("The model's graph holds a part that was compiled for a device."),
                        told("{graph} has a node EPContext.", graph=graph),
                        told("Use a model that holds its graph as operators."),
                        code="onnx.compiled",
                    )
    except (OSError, ValueError) as error:
        raise RequestError(
            told("The model's graph cannot be read."),
            told("{graph}: {error}.", graph=graph, error=error),
            told("Make the model again with optimize, or fetch it again."),
            code="onnx.graph",
        ) from None
    for place in sorted(places):
        refuse_name(graph, told("the place of some weights"), place)
        if not (graph.parent / place).is_file():
            raise RequestError(
                told("The model is not whole."),
                told("{graph} has weights in {place!r}, which is not there.", graph=graph, place=place),
                told("Make the model again with optimize, or fetch it again."),
                code="onnx.graph",
            )


def _messages(data: mmap.mmap) -> Iterator[tuple[str, dict[int, bytes]]]:
    """Every node and every note on a tensor's place, each with its texts by field number."""
    waiting = [("model", 0, len(data))]
    while waiting:
        kind, start, end = waiting.pop()
        parts, texts = _PARTS[kind], dict[int, bytes]()
        for number, at, stop in fields(data, start, end):
            if (part := parts.get(number)) is not None:
                waiting.append((part, at, stop))
            elif kind == "entry" or (kind == "node" and number == _OPERATOR):
                texts[number] = data[at:stop]
        if texts:
            yield kind, texts
