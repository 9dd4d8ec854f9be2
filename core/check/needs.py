"""What each stage of a recipe will need: GPU memory, RAM, disk and time. Arithmetic only, nothing is loaded.

The shapes come from the model's ``config.json``. The constants were measured (docs/check.md has the
table of predicted and measured) and lean to the safe side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from core.recipe import Recipe
from core.training.memory import Shape, estimate_memory

GIB = 2**30

PROCESS_RAM = {"quantize": 0.78 * GIB, "finetune": 0.80 * GIB, "optimize": 0.95 * GIB}
"""What a stage's process holds before it opens a model: torch, transformers, olive (resident)."""

CUDA_RAM = 1.6 * GIB
"""What CUDA's libraries add to that once a GPU is used."""

CPU_FLOPS_A_CORE = 1.5e10
"""Float operations a second that one CPU core gives these stages, float32."""

GPU_FLOPS = 1.5e14
"""Float operations a second that one data-centre GPU gives these stages, bfloat16."""

SEARCH_PASSES = {"awq": 26.0, "awq+gptq": 30.0, "gptq": 6.0, "kquant": 0.0, "rtn": 0.0, "none": 0.0}
"""Matrix products over the weights' sizes that an algorithm does beside the calibration pass."""


@dataclass(frozen=True)
class Need:
    """What one stage needs: bytes, and seconds; ``gpu`` is 0 where the stage uses none."""

    stage: str
    ram: int
    gpu: int
    disk: int
    seconds: float


@dataclass(frozen=True)
class Machine:
    """What the stages may count on: whether there is a GPU, the memory free on it, and the CPU cores."""

    gpu_free: int
    cores: int

    @property
    def has_gpu(self) -> bool:
        """Whether the stages will use a GPU."""
        return self.gpu_free > 0


def parameters(shape: Shape) -> int:
    """Numbers in the model's weights."""
    linears = shape.layers * sum(inputs * outputs for inputs, outputs in shape.linears)
    return linears + shape.vocab * shape.hidden * (1 if shape.tied else 2)


def quantized_bytes(shape: Shape, bits: int, group: int, float_bytes: int = 2) -> int:
    """Size of the quantized checkpoint: packed linear layers with a scale and zero point a group, float embeddings."""
    linears = shape.layers * sum(inputs * outputs for inputs, outputs in shape.linears)
    packed = linears * (bits / 8 + (float_bytes + bits / 8) / group)
    return int(packed + shape.vocab * shape.hidden * (1 if shape.tied else 2) * float_bytes)


def stage_needs(
    config: dict[str, Any], recipe: Recipe, machine: Machine, rows: int | None = None
) -> dict[str, Need]:
    """The needs of the three stages.

    Args:
        config: the model's ``config.json``.
        rows: training records, where they are known: no calibration takes more than there are.
    """
    shape = Shape.of(config)
    return {
        "quantize": _quantize(shape, config, recipe, machine, rows),
        "finetune": _finetune(shape, recipe, machine),
        "optimize": _optimize(shape, recipe, machine),
    }


def _float_bytes(config: dict[str, Any]) -> int:
    return 4 if str(config.get("dtype") or config.get("torch_dtype") or "") == "float32" else 2


def _rate(machine: Machine) -> float:
    return GPU_FLOPS if machine.has_gpu else CPU_FLOPS_A_CORE * max(1, machine.cores)


def _quantize(
    shape: Shape, config: dict[str, Any], recipe: Recipe, machine: Machine, rows: int | None
) -> Need:
    options = recipe.quantize
    size = _float_bytes(config)
    weights = parameters(shape) * size
    result = (
        weights
        if options.algorithm == "none"
        else quantized_bytes(shape, options.bits, options.group_size, size)
    )
    samples = min(options.calibration_samples, rows or options.calibration_samples)
    tokens = samples * min(options.max_calibration_len, recipe.data.max_seq_len)
    calibrated = SEARCH_PASSES[options.algorithm] > 0
    hidden_states = tokens * shape.hidden * size * 2 if calibrated else 0
    layer = max((i * o for i, o in shape.linears), default=0)
    widest = max((i for i, _ in shape.linears), default=0)
    # One layer in float32 with its Gram matrices while it is searched.
    layer_work = (
        sum(i * o for i, o in shape.linears) * 4 + layer * 12 + widest * widest * 4 * 2
        if calibrated
        else layer * 8
    )
    seconds = 6 + weights / 1.0e9
    if calibrated:
        flops = 4.0 * parameters(shape) * tokens
        flops += (
            SEARCH_PASSES[options.algorithm] * 2 * shape.layers * sum(i * i * o for i, o in shape.linears)
        )
        seconds += flops / _rate(machine)
    ram: float = PROCESS_RAM["quantize"] + weights + hidden_states * (0 if machine.has_gpu else 1)
    gpu = 0
    if machine.has_gpu:
        ram += CUDA_RAM
        gpu = int(layer_work + hidden_states)
    else:
        ram += layer_work
    return Need("quantize", int(ram), gpu, result, seconds)


def _finetune(shape: Shape, recipe: Recipe, machine: Machine) -> Need:
    options, quantize = recipe.finetune, recipe.quantize
    bits = None if quantize.algorithm == "none" else quantize.bits
    packed = Shape(**{**shape.__dict__, "bits": bits, "group_size": quantize.group_size})
    length = recipe.data.max_seq_len
    need = estimate_memory(
        packed,
        rank=options.rank,
        batch=options.batch_size,
        length=length,
        way="low",
        number_bytes=2 if machine.has_gpu else 4,
    )
    numbers = shape.adapter_numbers(options.rank)
    disk = numbers * 4 * 4  # the adapter, and a checkpoint of it with its two moments
    tokens = options.steps * options.batch_size * options.gradient_accumulation * length
    seconds = 10 + 6 * parameters(shape) * tokens / _rate(machine)
    loaded = quantized_bytes(shape, quantize.bits, quantize.group_size) if bits else parameters(shape) * 2
    if machine.has_gpu:
        return Need("finetune", int(PROCESS_RAM["finetune"] + CUDA_RAM + loaded), need.total, disk, seconds)
    return Need("finetune", int(PROCESS_RAM["finetune"] + need.total), 0, disk, seconds)


def _optimize(shape: Shape, recipe: Recipe, machine: Machine) -> Need:
    width = {"int4": 4, "int8": 8, "fp16": 16, "bf16": 16, "fp32": 32}[recipe.optimize.precision]
    bits = recipe.quantize.bits if recipe.quantize.algorithm != "none" else width
    result = quantized_bytes(shape, bits, recipe.quantize.group_size, 2)
    adapter = shape.adapter_numbers(recipe.finetune.rank) * 4
    embeddings = shape.vocab * shape.hidden * 4
    ram = PROCESS_RAM["optimize"] + 2 * result + embeddings + 2 * adapter
    return Need("optimize", int(ram), 0, result + adapter + embeddings, 12 + result / 2.5e8)
