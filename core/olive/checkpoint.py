"""Olive's checkpoint format and its quantized layer: all that this program knows of them.

A quantized matrix of a checkpoint (``quant_method: "olive"``) is a few tensors: ``qweight`` [outputs, bytes],
``scales`` [outputs, groups], ``qzeros`` (absent where the zero point is always the middle) and ``bias``; in memory it
is a ``QuantLinear``. Loads torch and olive: only for a job's process.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from olive.common.quant.hf_utils import OliveHfQuantizationConfig, OliveHfQuantizer
from olive.common.quant.nn import QuantLinear
from torch import nn
from torch.nn import functional

from core.errors import MachineError, RequestError
from core.events import Reporter
from core.files import explained, write_json
from core.language import told
from core.model.folder import OLIVE, config_facts, read_config
from core.model.load import cannot_load, refuse_gaps
from core.model.weights import tensor_entries, weight_files
from core.text import first_line
from core.tqdm_progress import reporting

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["OliveHfQuantizationConfig", "QuantLinear"]

FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
"""Layers that hold several matrices, one above the other, and what those are called by themselves."""

_TENSORS = ("qweight", "scales", "qzeros", "bias")


# Whole models


def register_olive_quantization() -> None:
    """Teach transformers these checkpoints.

    Olive does this only inside its own loader; without it transformers ignores the method and loads
    random weights.
    """
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

    AUTO_QUANTIZATION_CONFIG_MAPPING[OLIVE] = OliveHfQuantizationConfig
    AUTO_QUANTIZER_MAPPING[OLIVE] = OliveHfQuantizer


def load_model(
    path: Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Load a causal language model, quantized by Olive or float, in evaluation mode.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: of the float weights; None keeps the checkpoint's.

    Raises:
        RequestError: weights are missing, of another shape, or quantized in a way unknown here.
        MachineError: there is not enough memory.
    """
    from transformers import AutoModelForCausalLM

    quantization = read_config(path).get("quantization_config")
    if isinstance(quantization, dict):
        method = quantization.get("quant_method")
        if method != OLIVE:
            raise RequestError(
                told("The model is already quantized, in a form that is not Olive's."),
                told("{path}/config.json says quant_method = {method!r}.", path=path, method=method),
                told("Use the float model that it was made from."),
                code="model.quantized",
            )
        register_olive_quantization()
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            str(path),
            dtype="auto" if dtype is None else dtype,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, with their names
        )
        refuse_gaps(path, info)
        model = model.to(device)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise MachineError(
            told("There is not enough memory for the model."),
            told("{path} on {device}: {error}", path=path, device=device, error=first_line(error)),
            told("Close what else uses the memory, or use a smaller model."),
            code="machine.memory",
        ) from error
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise cannot_load(path, error, told("The model cannot be loaded.")) from error
    model.eval()
    return model


def load_reference(path: Path, report: Reporter, trust_remote_code: bool = False) -> PreTrainedModel:
    """The PyTorch model that ONNX answers are compared with: float32, on the GPU if there is one, quick when packed."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with reporting(report):
        model = load_model(path, device=device, dtype=torch.float32, trust_remote_code=trust_remote_code)
        multiply_quickly(model)
    return model


def embed_by_output_matrix(model: PreTrainedModel) -> None:
    """Give a model the embeddings that its packed output matrix holds, as ONNX graphs have them that keep it once."""
    weight = model.get_input_embeddings().weight
    with torch.no_grad():
        weight.copy_(unpacked_weight(model.get_output_embeddings(), weight.dtype))


def save_quantized(model: Any, quantization: OliveHfQuantizationConfig, folder: str) -> None:
    """Write a model whose matrices were replaced by :func:`pack` as a checkpoint."""
    quantization.tie_word_embeddings = False
    model.quantization_method = quantization.quant_method
    model.config.quantization_config = quantization
    model.save_pretrained(folder)


def linear_modules(checkpoint: Path) -> list[str]:
    """Names of the linear layers inside a checkpoint's decoder layers, float or packed, from the files' headers."""
    names = []
    for name, entry in tensor_entries(checkpoint).items():
        module, _, kind = name.rpartition(".")
        if ".layers." in module and kind in ("weight", "qweight") and len(entry.shape) == 2:
            names.append(module)
    return names


# One layer


def pack(
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor,
    linear: nn.Linear,
    *,
    bits: int,
    symmetric: bool,
    group_size: int,
) -> QuantLinear:
    """A rounded matrix in Olive's packed form, with the bias of the float one.

    Args:
        codes: [outputs, inputs].
        scales, zeros: [outputs, groups]; the layer keeps the type of ``scales``.
    """
    made: QuantLinear = QuantLinear.from_tensors(
        weight=codes,
        bits=bits,
        symmetric=symmetric,
        group_size=group_size,
        scales=scales,
        zero_points=zeros.to(torch.int32),
        quantized=True,
        in_features=linear.in_features,
        out_features=linear.out_features,
        bias=linear.bias is not None,
    )
    if linear.bias is not None:
        made.bias = linear.bias.data.to(scales.dtype)
    return made


def store(layer: nn.Module, dtype: torch.dtype, scales: bool = False) -> None:
    """Bring what is left in float in a layer to ``dtype``, and with ``scales`` the packed matrices' too."""
    for module in layer.modules():
        if isinstance(module, QuantLinear):
            if scales:
                module.scales = module.scales.to(dtype)
                if module.bias is not None:
                    module.bias = module.bias.to(dtype)
            continue
        for parameter in module._parameters.values():
            if parameter is not None and parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)


@torch.no_grad()
def unpacked_weight(layer: QuantLinear, dtype: torch.dtype) -> torch.Tensor:
    """The float weight [outputs, inputs] of a quantized layer, equal to what Olive's own method gives.

    For four and eight bits this takes fewer passes over memory, and an eighth of it: no copy is ever wider
    than ``dtype``, where Olive's are of 32-bit integers. On a NVIDIA GPU a kernel does it in one.
    """
    scales, bits = layer.scales, layer.quantizer.bits
    groups = scales.shape[-1]
    in_a_group = layer.cols // groups
    if bits not in (4, 8) or scales.shape[0] != layer.rows or in_a_group % 2:
        dense: torch.Tensor = layer.unpack_and_dequantize(layer.qweight, scales, layer.qzeros)
        return dense.to(dtype)
    if scales.device.type == "cuda" and (kernel := _kernel()) is not None:
        return kernel(layer.qweight, scales, layer.qzeros, columns=layer.cols, bits=bits, dtype=dtype)
    return _unpacked_by_torch(layer, dtype)


@cache
def _kernel() -> Callable[..., torch.Tensor] | None:
    """A kernel that unpacks in one pass; None where it cannot be built, or does something else than torch."""
    if find_spec("triton") is None:
        return None
    from core.olive.kernels import unpack

    made = nn.Linear(64, 8, device="cuda", dtype=torch.bfloat16)
    layer = QuantLinear.from_module(made, bits=4, symmetric=False, group_size=16).to("cuda")
    try:
        found = unpack(layer.qweight, layer.scales, layer.qzeros, columns=64, bits=4, dtype=torch.bfloat16)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # no compiler on this machine
        return None
    return unpack if torch.equal(found, _unpacked_by_torch(layer, torch.bfloat16)) else None


def _unpacked_by_torch(layer: QuantLinear, dtype: torch.dtype) -> torch.Tensor:
    scales, bits = layer.scales, layer.quantizer.bits
    groups = scales.shape[-1]
    in_a_group = layer.cols // groups
    packed = layer.qweight.view(layer.rows, groups, in_a_group * bits // 8)
    if layer.qzeros is None:
        zero = scales.new_full((1, 1), layer.quantizer.midq)
    elif bits == 8:
        zero = layer.qzeros.view(layer.rows, groups).to(scales.dtype)
    else:
        # Two zero points in a byte, the first in the low half; an odd count leaves the last half empty.
        pairs = torch.stack((layer.qzeros & 15, layer.qzeros >> 4), dim=-1).flatten(1)
        zero = pairs[:, :groups].to(scales.dtype)
    # Whole numbers up to 255, and their differences, are exact in every float type.
    if bits == 8:
        weight = torch.sub(packed, zero.unsqueeze(-1), out=scales.new_empty(packed.shape))
    else:
        weight = scales.new_empty((layer.rows, groups, in_a_group // 2, 2))
        torch.sub(packed & 15, zero.unsqueeze(-1), out=weight[..., 0])
        torch.sub(packed >> 4, zero.unsqueeze(-1), out=weight[..., 1])
        weight = weight.view(layer.rows, groups, in_a_group)
    return weight.mul_(scales.unsqueeze(-1)).view(layer.rows, layer.cols).to(dtype)


def _packed_layers(model: nn.Module) -> Iterator[tuple[str, QuantLinear]]:
    yield from ((name, each) for name, each in model.named_modules() if isinstance(each, QuantLinear))


def multiply_quickly(model: nn.Module) -> None:
    """Let a packed layer, or all in a model, multiply by :func:`unpacked_weight`.

    Olive's own forward gives the same numbers and takes about three times as long.
    """

    def quick(layer: QuantLinear) -> Any:
        def forward(x: torch.Tensor) -> torch.Tensor:
            bias = None if layer.bias is None else layer.bias.to(x.dtype)
            return functional.linear(x, unpacked_weight(layer, x.dtype), bias)

        return forward

    for _, layer in _packed_layers(model):
        layer.forward = quick(layer)


def unpack_linears(model: PreTrainedModel, dtype: torch.dtype) -> int:
    """Replace the model's quantized linear layers by float ones; returns how many.

    Call it before adapters are added. Layers are replaced one at a time, so that at no moment more
    than one weight exists in both forms.
    """
    names = [name for name, _ in _packed_layers(model)]
    for name in names:
        layer = model.get_submodule(name)
        with torch.device("meta"):
            dense = nn.Linear(layer.cols, layer.rows, bias=layer.bias is not None)
        with torch.cuda.device_of(
            layer.scales
        ):  # a kernel is started on the current device, wherever its data is
            dense.weight = nn.Parameter(unpacked_weight(layer, dtype), requires_grad=False)
        if layer.bias is not None:
            dense.bias = nn.Parameter(layer.bias.to(dtype), requires_grad=False)
        model.set_submodule(name, dense)
    return len(names)


# The files of a checkpoint


@dataclass(frozen=True)
class Packed:
    """A rounded matrix as a checkpoint has it: (``codes`` - ``zeros``) * ``scales``, group by group of a row.

    Attributes:
        codes: [outputs, inputs], whole numbers.
        scales, zeros: [outputs, groups].
    """

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor
    bits: int

    @property
    def group_size(self) -> int:
        """Inputs that share a scale."""
        return int(self.codes.shape[1] // self.scales.shape[1])

    def weight(self) -> torch.Tensor:
        """The float matrix, float32."""
        rows, groups = self.scales.shape
        codes = self.codes.view(rows, groups, -1).float()
        scales, zeros = self.scales.float().unsqueeze(-1), self.zeros.float().unsqueeze(-1)
        return codes.sub_(zeros).mul_(scales).view(rows, -1)


def read_tensors(checkpoint: Path) -> Iterator[tuple[str, torch.Tensor | Packed]]:
    """Every matrix of a checkpoint by its name in a float model, one at a time; rounded ones as they are packed.

    Raises:
        RequestError: a file is damaged, or a matrix is packed in a way that is not known here.
    """
    from safetensors import safe_open

    entries = tensor_entries(checkpoint)
    config = read_config(checkpoint).get("quantization_config") or {}
    for file in weight_files(checkpoint):
        with safe_open(str(file), "pt") as stream:
            for name in stream.keys():  # noqa: SIM118 - not a dictionary
                module, _, kind = name.rpartition(".")
                if f"{module}.qweight" not in entries or kind not in _TENSORS or kind == "bias":
                    yield name, stream.get_tensor(name)
                elif kind == "qweight":
                    zeros = f"{module}.qzeros"
                    yield (
                        f"{module}.weight",
                        _unpacked(
                            stream.get_tensor(name),
                            stream.get_tensor(f"{module}.scales"),
                            stream.get_tensor(zeros) if zeros in entries else None,
                            _bits(config, module),
                            f"{file}: {module}",
                        ),
                    )


def matrix_sizes(checkpoint: Path) -> dict[str, tuple[int, ...]]:
    """The size of each layer's weight, from the files' headers: [outputs, inputs] of a matrix, rounded or not."""
    config = read_config(checkpoint).get("quantization_config") or {}
    sizes: dict[str, tuple[int, ...]] = {}
    for name, entry in tensor_entries(checkpoint).items():
        module, _, kind = name.rpartition(".")
        if kind == "qweight":
            sizes[module] = (entry.shape[0], entry.shape[1] * 8 // _bits(config, module))
        elif kind == "weight":
            sizes[module] = entry.shape
    return sizes


def _bits(config: Mapping[str, Any], module: str) -> int:
    own = (config.get("overrides") or {}).get(module) or {}
    return int(own.get("bits") or config.get("bits") or 4)


def _unpacked(
    packed: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None, bits: int, where: str
) -> Packed:
    rows, groups = scales.shape
    if bits not in (4, 8) or packed.shape[0] != rows or packed.dtype != torch.uint8:
        raise RequestError(
            told("The quantized model is packed in a way that is not known here."),
            told(
                "{where} has {bits} bits, scales of {shape} and codes of {codes_shape}.",
                where=where,
                bits=bits,
                shape=list(scales.shape),
                codes_shape=list(packed.shape),
            ),
            told("Run quantize again."),
            code="export.packing",
        )
    if zeros is None:
        known = torch.full((rows, groups), 1 << (bits - 1), dtype=torch.uint8)
    else:
        known = _halves(zeros)[:, :groups] if bits == 4 else zeros
    return Packed(_halves(packed) if bits == 4 else packed, scales, known, bits)


def _halves(packed: torch.Tensor) -> torch.Tensor:
    """Two numbers of each byte, the one in its low half first."""
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(1)


def has_no_zero_points(checkpoint: Path) -> bool:
    """Whether a checkpoint is packed with the middle as every zero point, so that none is written."""
    packed = [name for name in tensor_entries(checkpoint) if name.endswith((".qweight", ".qzeros"))]
    return bool(packed) and not any(name.endswith(".qzeros") for name in packed)


def fused_layers(checkpoint: Path) -> set[str]:
    """Names of the packed layers that hold several matrices."""
    return {
        name.rpartition(".")[0]
        for name in tensor_entries(checkpoint)
        if name.endswith(".qweight") and name.split(".")[-2] in FUSED
    }


def unfused(checkpoint: Path, view: Path) -> Path:
    """The checkpoint with every packed layer cut into the matrices that it holds; itself if none has to be.

    The model builder cuts Olive's zero points along the outputs, though they are packed along the groups, and then
    the runtime refuses the graph. Cut here, all of a layer's tensors are cut by rows.
    """
    config = read_config(checkpoint)
    quantization = config.get("quantization_config") or {}
    fused = fused_layers(checkpoint)
    if not fused:
        return checkpoint
    from safetensors import safe_open
    from safetensors.torch import save_file

    rows = _rows(config)
    shutil.rmtree(view, ignore_errors=True)
    with explained(view):
        view.mkdir(parents=True)
        weights = set(weight_files(checkpoint))
        for path in checkpoint.iterdir():
            if path.is_file() and path not in weights and path.name != "config.json":
                (view / path.name).symlink_to(path.resolve())
        for file in weights:
            tensors = {}
            with safe_open(str(file), "pt") as stream:
                for name in stream.keys():  # noqa: SIM118 - not a dictionary
                    tensors.update(_cut(name, stream.get_tensor(name), fused, rows))
            save_file(tensors, str(view / file.name), {"format": "pt"})
        overrides: dict[str, Any] = {}
        for name, value in (quantization.get("overrides") or {}).items():
            head, dot, kind = name.rpartition(".")
            overrides.update({f"{head}{dot}{part}": value for part in FUSED.get(kind, (kind,))})
        write_json(
            view / "config.json", {**config, "quantization_config": {**quantization, "overrides": overrides}}
        )
    return view


def _rows(config: Mapping[str, Any]) -> dict[str, list[int]]:
    facts = config_facts(config)
    q, kv = facts.attention_outputs
    return {"qkv_proj": [q, kv, kv], "gate_up_proj": [facts.intermediate_size] * 2}


def _cut(name: str, tensor: Any, fused: set[str], rows: Mapping[str, list[int]]) -> dict[str, Any]:
    module, _, what = name.rpartition(".")
    if module not in fused or what not in _TENSORS:
        return {name: tensor}
    head, _, kind = module.rpartition(".")
    return {
        f"{head}.{part}.{what}": piece.contiguous()
        for part, piece in zip(FUSED[kind], tensor.split(rows[kind]), strict=True)
    }
