"""What each stage of a recipe will need: GPU memory, RAM, disk and time. Arithmetic only, nothing is loaded.

The shapes come from the model's ``config.json``. The constants were measured (docs/check.md has the
table of predicted and measured) and lean to the safe side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from core.algorithms import ALGORITHMS
from core.evaluate.measuring import ANSWERS_S, TIMED, TOGETHER
from core.evaluate.stage import LAYERS_FLOPS
from core.finetune.gpus import GPU_FLOPS, STARTING_S, Work, gpus_that_pay, rows_at_once
from core.finetune.memory import TEXTS_AT_ONCE, MemoryPlan, TrainingSize, spread_if_needed
from core.model.auto import Settled
from core.model.folder import ModelFacts
from core.options import AUTO
from core.quantize.quality import affordable

GIB = 2**30

SAFETY = 1.05
"""Every estimate of memory is raised by this much, to be on the safe side of what was measured."""

PROCESS_RAM = {"quantize": 0.55 * GIB, "finetune": 0.55 * GIB, "optimize": 0.50 * GIB, "evaluate": 0.55 * GIB}
"""What a stage's process holds beside the model: torch, transformers and olive, as CPU builds."""

CUDA_BUILD_RAM = 0.5 * GIB
"""What a CUDA build of torch adds to that, used or not."""

CUDA_RAM = 1.95 * GIB
"""What CUDA's context and libraries add once a GPU is used."""

MEASURED_LOGITS = 2**26
"""Logits that are compared at once with the float model's when a stage verifies what it made."""

CPU_RUN, CPU_SEARCH, CPU_TRAINING = 2.0e10, 4.0e10, 5.0e10
"""Float operations a second that one CPU core gives, float32: where the calibration rows go through the layers, in the
search of scales and ranges, and in training. From the two models of docs/real-models.md."""

CPU_READING, GPU_READING = 8.0e9, 1.0e12
"""Bytes of weights a second that are read while a model answers token by token: each token needs all of them."""

GPU_BYTES = 3.0e12
"""Bytes a second between a GPU and its memory."""

LEARNING_STEP_S = 0.01
"""What a step of learning a layer's rounding takes at least: a GPU waits for its kernels to be started."""

BATCH_TOKENS = {True: 8192, False: 2048}
"""Calibration tokens that run at once with a GPU and without one (:class:`core.quantize.awq.OlivePressAwq`)."""

STEP_S = 0.01
"""What a token takes beside, of any model."""

GENERAL_TOKENS = 3000
"""Tokens of the general text that comes along."""


@dataclass(frozen=True)
class StageNeed:
    """What one stage needs: bytes, and seconds.

    Attributes:
        gpu: of each GPU that it uses; 0 where it uses none.
        gpu_free: free on that of several GPUs which decides; 0 where it uses the first alone.
    """

    stage: str
    ram: int
    gpu: int
    disk: int
    seconds: float
    gpu_free: int = 0


@dataclass(frozen=True)
class Machine:
    """What the stages may count on.

    Attributes:
        gpu_free: bytes free on the first GPU; 0 without one.
        cores: CPU cores.
        ram_free: bytes of RAM that can be had.
        cuda_build: whether torch is a CUDA build.
        others_free: bytes free on the further GPUs.
    """

    gpu_free: int
    cores: int
    ram_free: int = 1 << 40
    cuda_build: bool = False
    others_free: tuple[int, ...] = ()

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


def quantized_bytes(facts: ModelFacts, bits: int, group: int, float_bytes: int = 2) -> int:
    """Size of the quantized checkpoint: packed linear layers with a scale and zero point a group, float embeddings."""
    packed = facts.linear_numbers * (bits / 8 + (float_bytes + bits / 8) / group)
    return int(packed + facts.end_numbers * float_bytes)


def stage_needs(
    facts: ModelFacts, recipe: Settled, machine: Machine, lengths: Lengths | None = None
) -> dict[str, StageNeed]:
    """The needs of the stages for which they are known.

    Args:
        facts: of the model; its configuration is enough.
        lengths: of the records; the recipe's longest is assumed where they are not known.
    """
    limit = recipe.data.max_seq_len
    lengths = lengths or Lengths(recipe.quantize.calibration_samples, limit, limit)
    return {
        "quantize": _quantize(facts, recipe, machine, lengths),
        "finetune": _finetune(facts, recipe, machine, lengths),
        "optimize": _optimize(facts, recipe, machine, lengths),
        "evaluate": _evaluate(facts, recipe, machine, lengths),
    }


def _time(machine: Machine, flops: float, cpu_rate: float) -> float:
    return flops / (GPU_FLOPS if machine.has_gpu else cpu_rate * max(1, machine.cores))


def _quantize(facts: ModelFacts, recipe: Settled, machine: Machine, lengths: Lengths) -> StageNeed:
    options, algorithm = recipe.quantize, ALGORITHMS[recipe.quantize.algorithm]
    size = 4 if facts.dtype == "float32" else 2
    weights = (facts.linear_numbers + facts.end_numbers) * size
    kept = options.algorithm == "none"
    result = weights if kept else quantized_bytes(facts, options.bits, options.group_size, size)
    cut = min(options.max_calibration_len, lengths.longest)
    tokens = min(options.calibration_samples, lengths.rows) * min(cut, lengths.mean)
    layer = sum(i * o for i, o in facts.linears) * 8  # in float32, twice
    searching: float = layer
    seconds = 8 + weights / 1.0e9 if machine.has_gpu else 15 + weights / 1.0e8
    if algorithm.search:
        # The states of all rows, and a layer's Gram matrices, while it is searched.
        widest = max((i for i, _ in facts.linears), default=0)
        # With what float layers give beside it, their states and the products with the others' as well.
        ways, products = (3, 12) if algorithm.olive.get("correction") else (2, 8)
        states = ways * tokens * facts.hidden_size * (2 if machine.has_gpu else 4)
        searching += states + widest * widest * products
        search = algorithm.search * 2 * facts.layers * sum(i * i * o for i, o in facts.linears)
        seconds += _time(machine, ways * 2.0 * facts.linear_numbers * tokens, CPU_RUN)
        if learning := int(algorithm.olive.get("learn", 0)):
            seconds += _learning(facts, machine, learning, min(tokens, BATCH_TOKENS[machine.has_gpu]))
            # The matrices themselves, what moves them, both gradients and the steps between, in float32.
            searching += 4 * layer
        # On a GPU the search is float32 and small pieces: a quarter of the rate at most.
        seconds += _time(machine, search * (4 if machine.has_gpu else 1), CPU_SEARCH)
    checking = result + MEASURED_LOGITS * 4 * 5.6 if machine.has_gpu else result * 2
    process = machine.process_ram("quantize")
    # Olive's own passes load the whole model; ours and the verification go layer by layer.
    loaded = weights if algorithm.loads_all else 0
    if machine.has_gpu:
        on_gpu = max(searching, checking, loaded if algorithm.calibrated else 0)
        return _need("quantize", process + max(result, loaded), on_gpu, result, seconds)
    return _need("quantize", process + max(searching + result, checking, loaded * 2), 0, result, seconds)


def _learning(facts: ModelFacts, machine: Machine, steps: int, tokens: float) -> float:
    """Seconds in which the rounding of all layers is learnt: the products, and what a step does with each weight."""
    products = _time(machine, 6.0 * facts.linear_numbers * steps * tokens, CPU_TRAINING)
    moved = 160.0 * facts.linear_numbers * steps
    seconds = products + moved / (GPU_BYTES if machine.has_gpu else CPU_READING)
    return max(seconds, LEARNING_STEP_S * steps * facts.layers)


def _need(stage: str, ram: float, gpu: float, disk: float, seconds: float, gpu_free: int = 0) -> StageNeed:
    return StageNeed(stage, int(ram * SAFETY), int(gpu * SAFETY), int(disk), seconds, gpu_free)


def _finetune(facts: ModelFacts, recipe: Settled, machine: Machine, lengths: Lengths) -> StageNeed:
    options, quantize = recipe.finetune, recipe.quantize
    made = {"bits": quantize.bits, "group_size": quantize.group_size}
    packed = replace(facts, quantization=None if quantize.algorithm == "none" else made)
    process = machine.process_ram("finetune")
    tokens = options.steps * options.batch_size * options.gradient_accumulation * lengths.mean
    numbers = facts.linear_numbers + facts.end_numbers
    gpus = _finetune_gpus(facts, recipe, 1 + len(machine.others_free), lengths) if machine.has_gpu else 1
    gpu_free = min((machine.gpu_free, *machine.others_free)[:gpus])
    plan = TrainingSize(
        packed,
        options.rank,
        TEXTS_AT_ONCE[options.objective]
        * rows_at_once(options.batch_size, options.gradient_accumulation, gpus),
        lengths.longest,
        2 if machine.has_gpu else 4,
        options.dropout > 0,
    ).plan(gpu_free if machine.has_gpu else max(0, machine.ram_free - int(process)), options.memory)
    spread = None
    if gpus > 1 or options.gpus == AUTO:
        spread = _spread(packed, recipe, machine, lengths)
    if spread is not None:
        plan, gpus = spread, 1
    disk = facts.adapter_numbers(options.rank) * 4 * 4  # the adapter, and a checkpoint with its two moments
    # Forward and backward without the base's own gradients, 4 a parameter and token; 2 more to recompute.
    share = 4 + 2 * plan.recomputed / max(1, facts.layers)
    rows = options.batch_size * options.gradient_accumulation
    # The longest share decides: 8 records on 3 GPUs take as long as 9.
    flops = share * numbers * tokens * -(-rows // gpus) / rows
    seconds = 15 + _time(machine, flops, CPU_TRAINING)
    if gpus > 1:  # a process for each, and the one that watches over them
        ram = process * (gpus + 1)
        return _need("finetune", ram, plan.need.total, disk, seconds + STARTING_S, plan.free)
    if machine.has_gpu:
        return _need("finetune", process, plan.need.total, disk, seconds, plan.free)
    return _need("finetune", process + plan.need.total, 0, disk, seconds)


def _spread(facts: ModelFacts, recipe: Settled, machine: Machine, lengths: Lengths) -> MemoryPlan | None:
    """How a finetune goes whose base no GPU can hold by itself; None where one can, or all cannot."""
    options = recipe.finetune
    free = (machine.gpu_free, *machine.others_free)
    if options.gpus != AUTO:
        free = free[: options.gpus]
    if len(free) < 2:
        return None
    batch, accumulation, texts = (
        options.batch_size,
        options.gradient_accumulation,
        TEXTS_AT_ONCE[options.objective],
    )
    size = TrainingSize(facts, options.rank, texts * batch, lengths.longest, 2, options.dropout > 0)
    return spread_if_needed(size, texts * rows_at_once(batch, accumulation, len(free)), free, options.memory)


def _finetune_gpus(facts: ModelFacts, recipe: Settled, there: int, lengths: Lengths) -> int:
    """How many GPUs a finetune will use; where more are asked for than are there, as many as are asked for."""
    options = recipe.finetune
    row = 4 * (facts.linear_numbers + facts.end_numbers) * lengths.mean
    work = Work(options.steps, options.batch_size, options.gradient_accumulation, row)
    return gpus_that_pay(work, there) if options.gpus == AUTO else min(options.gpus, work.rows)


def _optimize(facts: ModelFacts, recipe: Settled, machine: Machine, lengths: Lengths) -> StageNeed:
    need = _base(facts, recipe, machine)
    if recipe.optimize.adapters != "merged":
        return need
    # The float weights with the adapter in them are written, rounded like the first ones, and built once more.
    again = _quantize(facts, recipe, machine, lengths)
    floats = (facts.linear_numbers + facts.end_numbers) * (4 if facts.dtype == "float32" else 2)
    return StageNeed(
        "optimize",
        max(need.ram, again.ram),
        max(need.gpu, again.gpu),
        2 * need.disk + again.disk + floats,
        2 * need.seconds + again.seconds,
    )


def _base(facts: ModelFacts, recipe: Settled, machine: Machine) -> StageNeed:
    width = {"int4": 4, "int8": 8, "fp16": 16, "bf16": 16, "fp32": 32}[recipe.optimize.precision]
    kept = recipe.quantize.algorithm == "none"
    bits = width if kept else recipe.quantize.bits
    result = quantized_bytes(facts, bits, recipe.quantize.group_size, 2) * 1.1
    adapter = facts.adapter_numbers(recipe.finetune.rank) * 4
    # Two sessions of the graph (the second without int8 rounding), each with the file mapped, the weights
    # packed anew for its kernels, and the adapter.
    ram = machine.process_ram("optimize") + 4 * result + 2 * adapter
    disk = 2 * result + adapter
    if machine.has_gpu:
        return _need("optimize", ram, result + adapter + 1.4 * GIB, disk, 40 + result / 2.5e8)
    # PyTorch answers the same prompts: a float model in float32, a quantized one packed but for the matrix in use.
    head = (facts.vocab_size or 32000) * facts.hidden_size
    widest = max(head, *(i * o for i, o in facts.linears))
    reference = (facts.linear_numbers + facts.end_numbers) * 4 if kept else result + 2 * widest * 4
    return _need("optimize", ram + reference, 0, disk, 30 + result / (4e6 * max(1, machine.cores)))


def _evaluate(facts: ModelFacts, recipe: Settled, machine: Machine, lengths: Lengths) -> StageNeed:
    """All five variants: float, quantized and with adapter in PyTorch, two in the runtime, each in its own process."""
    rows = min(recipe.evaluate.rows, max(1, round(recipe.data.eval_fraction * lengths.rows)))
    numbers = facts.linear_numbers + facts.end_numbers
    packed = quantized_bytes(facts, recipe.quantize.bits, recipe.quantize.group_size)
    process = machine.process_ram("evaluate")
    whole = numbers * (2 if machine.has_gpu else 4)
    answer = min(lengths.mean, recipe.chat.max_new_tokens)
    affords = affordable(facts, "cuda" if machine.has_gpu else "cpu")
    general = min(affords, MEASURED_LOGITS // max(1, facts.vocab_size), GENERAL_TOKENS)
    one_by_one = min(rows, TIMED) + -(-max(0, rows - TIMED) // TOGETHER)
    reading = GPU_READING if machine.has_gpu else CPU_READING
    seconds = 3 * min(ANSWERS_S, one_by_one * answer * (whole / reading + STEP_S))
    seconds += 2 * min(ANSWERS_S, rows * answer * (packed / reading + STEP_S))
    seconds += _time(machine, 2.0 * numbers * (5 * (rows * lengths.mean + general) + general), CPU_RUN)
    seconds += _time(machine, LAYERS_FLOPS, CPU_RUN)
    seconds += 5 * (6 + whole / 1e9)
    # The float model is left out where it does not fit.
    loaded = whole + packed if process * 2 + whole + packed < machine.ram_free else packed * 2
    logits = MEASURED_LOGITS * 4 * 2
    disk = MEASURED_LOGITS * 4
    if machine.has_gpu:
        return _need("evaluate", process * 2 + packed + logits, whole + packed, disk, seconds)
    return _need("evaluate", process * 2 + loaded + logits, 0, disk, seconds)
