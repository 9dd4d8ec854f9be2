"""What a training step takes beside its matrix products alone: ``python -m benchmarks.training_floor FOLDER``.

FOLDER is a model as quantize leaves it (``models/quantized`` of a lab). Trains on the bundled travel records as the
lab does, 8 rows a step, and times the steps; then the same matrix products on their own: each layer's forward and
backward, the adapter's, and the output layer's at the places that are learnt. On a CPU the processor's time
is told beside the clock's, since other work may share the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
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


def travel_rows(base: Path, batch: int, steps: int) -> tuple[Any, Any]:
    """Training rows of the bundled records, and the settings of a training on them."""
    from core.data import load_examples
    from core.finetune.loop import Settings
    from core.finetune.rows import tokenize
    from core.model.auto import Facts, resolve
    from core.model.text import read_text
    from core.model.tokenizer import ModelTokenizer
    from core.recipe import Recipe
    from core.resources import sample_data

    recipe = resolve(Recipe().with_values({"data.file": str(sample_data())}), Facts.of(base), None).recipe
    text = read_text(base)
    split = load_examples(recipe, sample_data().parent, text=text)
    rows = tokenize(split.train, ModelTokenizer.read(base, text.ends), max_len=1024).rows
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

    def add(left: torch.Tensor, right: torch.Tensor) -> None:
        nonlocal operations
        calls.append(lambda: left @ right)
        operations += 2.0 * left.shape[0] * left.shape[1] * right.shape[1]

    device = next(model.parameters()).device
    for layer in (m for m in model.modules() if isinstance(m, LoraLinear)):
        weight = layer.base_weight(dtype)
        outputs, inputs = weight.shape
        x, dy = (torch.randn(tokens, n, device=device, dtype=dtype) for n in (inputs, outputs))
        a, b = (each["default"].weight.detach().to(dtype) for each in (layer.lora_A, layer.lora_B))
        low = torch.randn(tokens, len(a), device=device, dtype=dtype)
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
    weight = torch.randn(words, width, device=device, dtype=dtype)
    add(torch.randn(learnt, width, device=device, dtype=dtype), weight.t())
    add(torch.randn(learnt, words, device=device, dtype=dtype), weight)
    return calls, operations


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--float32", action="store_true", help="train in float32 whatever the processor has")
    parser.add_argument("--low", action="store_true", help="as memory = low does")
    parser.add_argument("--profile", action="store_true", help="print where the last step's time goes")
    options = parser.parse_args()

    from core.olive.run import import_olive

    import_olive()
    from core.events import Reporter
    from core.finetune.device import recompute_layers, training_device, training_dtype
    from core.finetune.loop import Trainer
    from core.finetune.lora_layer import add_lora
    from core.olive.checkpoint import load_model, unpack_linears
    from core.stage_context import versions

    device = training_device()
    dtype = torch.float32 if options.float32 else training_dtype(device)
    rows, settings = travel_rows(options.folder, options.batch, options.steps)
    model = load_model(options.folder, device=str(device), dtype=dtype)
    if not options.low:
        unpack_linears(model, dtype)
    torch.manual_seed(0)
    add_lora(model, rank=options.rank, alpha=2 * options.rank)
    if options.low:
        recompute_layers(model, len(rows))

    times: list[tuple[float, float]] = []
    sizes: list[tuple[int, int]] = []

    class Timed(Trainer):
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

    course = Timed(model, rows, [], settings, Reporter()).train()
    wall, cpu = middle(times[1:])
    tokens, learnt = (round(statistics.median(size[i] for size in sizes[1:])) for i in (0, 1))
    calls, operations = products(model, tokens, learnt, dtype)
    alone = []
    for _ in range(4):
        clock = Clock()
        for call in calls:
            call()
        alone.append(clock.read())
    floor_wall, floor_cpu = middle(alone[1:])
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"
    print(f"{name}, {dtype}, {tokens} tokens a step, {learnt} learnt, {operations / 1e9:.0f} GFLOP")
    print("| | clock | processor | GFLOP/s by the clock |\n| --- | --- | --- | --- |")
    for what, (w, c) in (("a step", (wall, cpu)), ("its matrix products alone", (floor_wall, floor_cpu))):
        print(f"| {what} | {w * 1e3:.0f} ms | {c * 1e3:.0f} ms | {operations / w / 1e9:.0f} |")
    print(
        f"of the products' speed: {floor_wall / wall:.0%} by the clock, {floor_cpu / cpu:.0%} by the processor"
    )
    print(json.dumps({"losses": [round(loss, 4) for loss in course.losses]}))
    found = ", ".join(f"{k} {v}" for k, v in versions("torch", "transformers", "olive-ai", "peft").items())
    print(f"{platform.machine()}, Python {platform.python_version()}; {found}", file=sys.stderr)


if __name__ == "__main__":
    main()
