"""What each stage of a recipe will need: GPU memory, RAM, disk and time. Arithmetic only, nothing is loaded.

The shapes come from the model's ``config.json``. The constants were measured (docs/check.md has the
table of predicted and measured) and lean to the safe side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from core.algorithms import ALGORITHMS
from core.finetune.memory import plan_memory
from core.model.auto import Settled
from core.model.folder import config_facts
from core.model.shape import Shape

GIB = 2**30

SAFETY = 1.05
"""Every estimate of memory is raised by this much, to be on the safe side of what was measured."""

PROCESS_RAM = {"quantize": 0.55 * GIB, "finetune": 0.55 * GIB, "optimize": 0.50 * GIB}
"""What a stage's process holds beside the model: torch, transformers and olive, as CPU builds."""

CUDA_BUILD_RAM = 0.5 * GIB
"""What a CUDA build of torch adds to that, used or not."""

CUDA_RAM = 1.95 * GIB
"""What CUDA's context and libraries add once a GPU is used."""

MEASURED_LOGITS = 2**26
"""Logits that are compared at once with the float model's when a stage verifies what it made."""

CPU_FLOPS_A_CORE = 1.5e10
"""Float operations a second that one CPU core gives these stages, float32."""

GPU_FLOPS = 4.0e14
"""Float operations a second that one data-centre GPU gives these stages, bfloat16."""


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
    """What the stages may count on.

    Attributes:
        gpu_free: bytes free on the GPU; 0 without one.
        cores: CPU cores.
        ram_free: bytes of RAM that can be had.
        cuda_build: whether torch is a CUDA build.
    """

    gpu_free: int
    cores: int
    ram_free: int = 1 << 40
    cuda_build: bool = False

    @property
    def has_gpu(self) -> bool:
        """Whether the stages will use a GPU."""
        return self.gpu_free > 0

    def process_ram(self, stage: str) -> float:
        """RAM of a stage's process before it opens a model."""
        return (
            PROCESS_RAM[stage]
            + (CUDA_BUILD_RAM if self.cuda_build or self.has_gpu else 0)
            + (CUDA_RAM if self.has_gpu else 0)
        )


@dataclass(frozen=True)
class Lengths:
    """The training records in tokens: how many, the mean and the longest, cut at ``data.max_seq_len``."""

    rows: int
    mean: float
    longest: int


def quantized_bytes(shape: Shape, bits: int, group: int, float_bytes: int = 2) -> int:
    """Size of the quantized checkpoint: packed linear layers with a scale and zero point a group, float embeddings."""
    linears = shape.layers * sum(inputs * outputs for inputs, outputs in shape.linears)
    packed = linears * (bits / 8 + (float_bytes + bits / 8) / group)
    return int(packed + shape.vocab * shape.hidden * (1 if shape.tied else 2) * float_bytes)


def stage_needs(
    config: dict[str, Any], recipe: Settled, machine: Machine, lengths: Lengths | None = None
) -> dict[str, Need]:
    """The needs of the stages for which they are known.

    Args:
        config: the model's ``config.json``.
        lengths: of the records; the recipe's longest is assumed where they are not known.
    """
    shape = Shape.of(config)
    limit = recipe.data.max_seq_len
    lengths = lengths or Lengths(recipe.quantize.calibration_samples, limit, limit)
    return {
        "quantize": _quantize(shape, config, recipe, machine, lengths),
        "finetune": _finetune(shape, recipe, machine, lengths),
        "optimize": _optimize(shape, recipe, machine),
    }


def _float_bytes(config: dict[str, Any]) -> int:
    return 4 if config_facts(config).dtype == "float32" else 2


def _rate(machine: Machine) -> float:
    return GPU_FLOPS if machine.has_gpu else CPU_FLOPS_A_CORE * max(1, machine.cores)


def _quantize(
    shape: Shape, config: dict[str, Any], recipe: Settled, machine: Machine, lengths: Lengths
) -> Need:
    options = recipe.quantize
    size = _float_bytes(config)
    weights = shape.parameters * size
    kept = options.algorithm == "none"
    result = weights if kept else quantized_bytes(shape, options.bits, options.group_size, size)
    algorithm = ALGORITHMS[options.algorithm]
    passes = algorithm.search
    cut = min(options.max_calibration_len, lengths.longest)
    tokens = min(options.calibration_samples, lengths.rows) * min(cut, lengths.mean)
    work_size = 2 if machine.has_gpu else 4
    states = 2 * tokens * shape.hidden * work_size if passes else 0
    linears = sum(i * o for i, o in shape.linears)
    widest = max((i for i, _ in shape.linears), default=0)
    # One layer in float32, twice, with its Gram matrices, while it is searched.
    searching = states + (linears * 8 + widest * widest * 8 if passes else linears * 8)
    checking = result + MEASURED_LOGITS * 4 * 5.6 if machine.has_gpu else result * 2
    seconds = 8 + weights / 1.0e9
    if passes:
        flops = 4.0 * shape.parameters * tokens
        flops += passes * 2 * shape.layers * sum(i * i * o for i, o in shape.linears)
        # The search is float32 and small pieces: a quarter of the rate at most.
        seconds += 4 * flops / _rate(machine)
    process = machine.process_ram("quantize")
    # Olive's own passes load the whole model; ours and the verification go layer by layer.
    loaded = weights if algorithm.loads_all else 0
    if machine.has_gpu:
        on_gpu = max(searching, checking, loaded if algorithm.calibrated else 0)
        return _need("quantize", process + max(result, loaded), on_gpu, result, seconds)
    return _need("quantize", process + max(searching + result, checking, loaded * 2), 0, result, seconds)


def _need(stage: str, ram: float, gpu: float, disk: float, seconds: float) -> Need:
    return Need(stage, int(ram * SAFETY), int(gpu * SAFETY), int(disk), seconds)


def _finetune(shape: Shape, recipe: Settled, machine: Machine, lengths: Lengths) -> Need:
    options, quantize = recipe.finetune, recipe.quantize
    bits = None if quantize.algorithm == "none" else quantize.bits
    packed = replace(shape, bits=bits, group_size=quantize.group_size)
    process = machine.process_ram("finetune")
    plan = plan_memory(
        packed,
        machine.gpu_free if machine.has_gpu else max(0, machine.ram_free - int(process)),
        rank=options.rank,
        batch=options.batch_size,
        length=lengths.longest,
        memory=options.memory,
        number_bytes=2 if machine.has_gpu else 4,
        dropout=options.dropout > 0,
    )
    disk = shape.adapter_numbers(options.rank) * 4 * 4  # the adapter, and a checkpoint with its two moments
    tokens = options.steps * options.batch_size * options.gradient_accumulation * lengths.mean
    # Forward and backward without the base's own gradients, 4 a parameter and token; 2 more to recompute.
    share = 4 + 2 * plan.recomputed / max(1, shape.layers)
    seconds = 15 + share * shape.parameters * tokens / _rate(machine)
    if machine.has_gpu:
        return _need("finetune", process, plan.need.total, disk, seconds)
    return _need("finetune", process + plan.need.total, 0, disk, seconds)


def _optimize(shape: Shape, recipe: Settled, machine: Machine) -> Need:
    width = {"int4": 4, "int8": 8, "fp16": 16, "bf16": 16, "fp32": 32}[recipe.optimize.precision]
    bits = recipe.quantize.bits if recipe.quantize.algorithm != "none" else width
    result = quantized_bytes(shape, bits, recipe.quantize.group_size, 2) * 1.1
    adapter = shape.adapter_numbers(recipe.finetune.rank) * 4
    process = machine.process_ram("optimize")
    # Two sessions of the graph (the second without int8 rounding), each with the file mapped, the weights
    # packed anew for its kernels, and the adapter.
    ram = process + 4 * result + 2 * adapter
    if machine.has_gpu:
        gpu = result + adapter + 1.4 * GIB
        return _need("optimize", ram, gpu, 2 * result + adapter, 40 + result / 2.5e8)
    # PyTorch answers the same prompts: a float model in float32, a quantized one packed but for the matrix in use.
    widest = max(shape.vocab * shape.hidden, *(i * o for i, o in shape.linears))
    reference = shape.parameters * 4 if recipe.quantize.algorithm == "none" else result + 2 * widest * 4
    return _need("optimize", ram + reference, 0, 2 * result + adapter, 20 + result / 1.0e8)
