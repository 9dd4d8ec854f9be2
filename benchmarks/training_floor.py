"""Training steps, and their matrix products alone: ``python -m benchmarks.training_floor FOLDER`` or ``--full-size``.

FOLDER is a model as quantize leaves it (``models/quantized`` of a lab). ``--full-size`` makes one of the shape of
Phi-3.5-mini-instruct in memory instead, 4 bits in groups of 128, with random weights. Trains as the lab does on the
bundled travel records, 8 rows a step (joined to rows of ``--tokens``), and times the steps; then the same matrix
products on their own: each layer's forward and backward, the adapter's, and the output layer's at the places that are
learnt. On a CPU the processor's time is told beside the clock's, since other work may share the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.update(OLIVE_DISABLE_TELEMETRY="1", ORT_DISABLE_TELEMETRY="1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch


class Clock:
    """Seconds of the wall and of the processor since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Both, the GPU's work done."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


def middle(times: list[tuple[float, float]]) -> tuple[float, float]:
    """The medians of both."""
    return statistics.median(t[0] for t in times), statistics.median(t[1] for t in times)


def full_size_model(device: torch.device, dtype: torch.dtype) -> Any:
    """Random weights in the shape of Phi-3.5-mini, packed."""
    from transformers import Phi3Config, Phi3ForCausalLM

    from benchmarks.full_size import SHAPE
    from core.olive.checkpoint import pack

    half = SHAPE["hidden_size"] // SHAPE["num_attention_heads"] // 2
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 4096,
        "short_factor": [1.0 + 0.02 * i for i in range(half)],
        "long_factor": [1.0 + 1.3 * i for i in range(half)],
    }
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = Phi3Config(
        **SHAPE, **ids, rope_parameters=rope, sliding_window=262144, tie_word_embeddings=False
    )
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with device:
        model = Phi3ForCausalLM(config).eval()
    torch.set_default_dtype(torch.float32)
    for name, linear in list(model.named_modules()):
        if isinstance(linear, torch.nn.Linear) and linear is not model.get_output_embeddings():
            groups = linear.weight.data.view(linear.out_features, -1, 128).float()
            low, high = groups.amin(-1), groups.amax(-1)
            scales = ((high - low) / 15).to(dtype)
            zeros = (-low / scales.float()).round().clamp(0, 15)
            codes = (groups / scales.float()[..., None] + zeros[..., None]).round().clamp(0, 15)
            codes = codes.to(torch.uint8).view_as(linear.weight)
            packed = pack(codes, scales, zeros, linear, bits=4, symmetric=False, group_size=128)
            model.set_submodule(name, packed.to(device))
    return model


def travel_rows(base: Path, batch: int, steps: int, tokens: int) -> tuple[Any, Any]:
    """Training rows of the bundled records, joined until they have so many tokens, and a training's settings."""
    import shutil

    from core.data import load_examples
    from core.finetune.loop import Settings
    from core.finetune.rows import TokenRow, tokenize
    from core.model.auto import Facts, resolve
    from core.model.text import read_text
    from core.model.tokenizer import ModelTokenizer
    from core.recipe import Recipe
    from core.resources import sample_data

    with TemporaryDirectory() as folder:
        data = Path(shutil.copy(sample_data(), folder))
        recipe = resolve(Recipe().with_values({"data.file": str(data)}), Facts.of(base), None).recipe
        text = read_text(base)
        split = load_examples(recipe, data.parent, text=text)
    rows = tokenize(split.train, ModelTokenizer.read(base, text.ends), max_len=1024).rows
    if tokens:
        ids = [each for row in rows for each in row.ids] * (1 + batch * tokens // 4000)
        starts = range(0, len(ids) - tokens, tokens)
        learnt = [False] * 20 + [True] * (tokens - 20)
        rows = [TokenRow(ids[start : start + tokens], learnt) for start in starts]
    settings = Settings(
        steps=steps,
        batch_size=batch,
        accumulation=1,
        learning_rate=recipe.finetune.learning_rate,
        warmup_ratio=0.03,
        seed=42,
        save_steps=10**9,
    )
    return rows, settings


def products(
    model: Any, tokens: int, learnt: int, dtype: torch.dtype
) -> tuple[list[Callable[[], Any]], float]:
    """All matrix products of a step as calls, and their float operations."""
    from core.finetune.lora_layer import LoraLinear

    calls: list[Callable[[], Any]] = []
    operations = 0.0
    device = next(model.parameters()).device
    made: dict[tuple[int, int], torch.Tensor] = {}

    def some(rows: int, columns: int) -> torch.Tensor:
        if (rows, columns) not in made:
            made[rows, columns] = torch.randn(rows, columns, device=device, dtype=dtype)
        return made[rows, columns]

    def add(left: torch.Tensor, right: torch.Tensor) -> None:
        nonlocal operations
        calls.append(lambda: left @ right)
        operations += 2.0 * left.shape[0] * left.shape[1] * right.shape[1]

    for layer in (m for m in model.modules() if isinstance(m, LoraLinear)):
        outputs, inputs = layer.out_features, layer.in_features
        # On a GPU each layer's own weight would not fit beside; on a CPU the caches would hold a shared one.
        weight = layer.base_weight(dtype) if device.type == "cpu" else some(outputs, inputs)
        x, dy = some(tokens, inputs), some(tokens, outputs)
        a, b = (each["default"].weight.detach().to(dtype) for each in (layer.lora_A, layer.lora_B))
        low = some(tokens, len(a))
        for left, right in (
            (x, weight.t()),
            (dy, weight),
            (x, a.t()),
            (low, b.t()),
            (dy, b),
            (low, a),
            (low.t(), x),
            (dy.t(), low),
        ):
            add(left, right)
    head = model.get_output_embeddings()
    words, width = head.out_features, head.in_features
    for first in range(0, learnt, 1024):
        part = min(1024, learnt - first)
        add(some(part, width), some(words, width).t())
        add(some(part, words), some(words, width))
    return calls, operations


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--full-size", action="store_true")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=0, help="0: the records as they are")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--float32", action="store_true", help="train in float32 whatever the processor has")
    parser.add_argument("--low", action="store_true", help="as memory = low does")
    parser.add_argument("--before", action="store_true", help="without graphs, kernels and kept tables")
    parser.add_argument("--profile", action="store_true", help="print where the last step's time goes")
    options = parser.parse_args()
    if options.full_size == bool(options.folder):
        parser.error("give a folder, or --full-size")

    from core.olive.run import import_olive

    import_olive()
    from core.events import RecordingReporter
    from core.finetune import loop
    from core.finetune.device import (
        attend_plainly,
        fuse_norms,
        recompute_layers,
        training_device,
        training_dtype,
    )
    from core.finetune.fused import fuse
    from core.finetune.lora_layer import add_lora
    from core.olive.checkpoint import load_model, unpack_linears
    from core.resources import rehearsal_model
    from core.stage_context import versions

    device = training_device()
    dtype = torch.float32 if options.float32 else training_dtype(device)
    base = options.folder or rehearsal_model()
    rows, settings = travel_rows(base, options.batch, options.steps, options.tokens)
    model = (
        full_size_model(device, dtype)
        if options.full_size
        else load_model(base, device=str(device), dtype=dtype)
    )
    if not options.low:
        unpack_linears(model, dtype)
    if not options.before:
        attend_plainly(model, max(row.width for row in rows))
        fuse(model)
    if not options.before or device.type == "cuda":
        fuse_norms(model)
    torch.manual_seed(0)
    add_lora(model, rank=options.rank, alpha=2 * options.rank, dropout=options.dropout)
    if options.low:
        recompute_layers(model, len(rows), random=False)

    times: list[tuple[float, float]] = []
    sizes: list[tuple[int, int]] = []

    class Timed(loop.Trainer):
        def _step(self, step: int) -> None:
            this = self._ahead.setdefault(step, self._share_of(step))
            batch = this.parts[0].batch
            sizes.append((batch.input_ids.numel(), len(batch.targets)))
            clock = Clock()
            if options.profile and step == settings.steps:
                with torch.profiler.profile() as profile:
                    super()._step(step)
                print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=30))
            else:
                super()._step(step)
            times.append(clock.read())

    report = RecordingReporter()
    trainer = Timed(model, rows, [], settings, report, capture=not options.before)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    course = trainer.train()
    wall, cpu = middle(times[1:])
    tokens, learnt = (round(statistics.median(size[i] for size in sizes[1:])) for i in (0, 1))
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{name}, {dtype}, {tokens} tokens a step, {learnt} learnt")
    for event in report.events:
        if event["type"] == "log":
            print(event["text"])
    total = sum(t[0] for t in times)
    graphs = len(trainer._graphs._graphs) if trainer._graphs is not None else 0
    peak = f", {course.gpu_peak / 2**30:.2f} GiB of GPU memory" if course.gpu_peak else ""
    print(f"{len(times)} steps: {total:.2f} s, the first {times[0][0]:.2f} s, {graphs} graphs{peak}")
    trainer.optimizer.state.clear()
    calls, operations = products(model, tokens, learnt, dtype)
    alone = []
    for _ in range(4):
        clock = Clock()
        for call in calls:
            call()
        alone.append(clock.read())
    floor_wall, floor_cpu = middle(alone[1:])
    print("| | clock | processor | TFLOP/s by the clock |\n| --- | --- | --- | --- |")
    for what, (w, c) in (("a step", (wall, cpu)), ("its matrix products alone", (floor_wall, floor_cpu))):
        print(f"| {what} | {w * 1e3:.1f} ms | {c * 1e3:.1f} ms | {operations / w / 1e12:.3f} |")
    print(
        f"of the products' speed: {floor_wall / wall:.0%} by the clock, {floor_cpu / cpu:.0%} by the processor"
    )
    print(json.dumps({"losses": [round(loss, 4) for loss in course.losses]}))
    found = ", ".join(f"{k} {v}" for k, v in versions("torch", "transformers", "olive-ai", "peft").items())
    print(f"{platform.machine()}, Python {platform.python_version()}; {found}")


if __name__ == "__main__":
    main()
