"""Which LoRA settings learn most and forget least, on real models: the tables of docs/finetune.md.

    python -m benchmarks.lora_choices --model NAME=FOLDER [--model ...] [--seeds 2] [--steps 120] [--workers 8]

FOLDER is a Hugging Face folder of a float model, which is quantized as the lab does it. Two tasks: the bundled travel
questions, and "what does this Python object do?" answered by the first paragraph of its docstring. Every setting
trains for the same number of steps on the same batches. Shown: the loss on held-out answers (what is learnt), and
the KL divergence from the float model on text of the other kind (what is forgotten), in nats a token.
Runs on the GPU if there is one.
"""

from __future__ import annotations

import argparse
import ast
import json
import logging
import multiprocessing
import os
import platform
import random
import statistics
import sys
import sysconfig
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.update(OLIVE_DISABLE_TELEMETRY="1", ORT_DISABLE_TELEMETRY="1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.real_quality import Texts, documentation, log_probabilities, quantized, travel

OTHER = {"travel": "documentation", "docstrings": "travel"}
MLP = ["gate_proj", "up_proj", "down_proj"]
BATCH = 8


@dataclass(frozen=True)
class Setting:
    """One line of the table; ``scale`` is alpha / rank, ``rate`` a factor on the automatic learning rate."""

    name: str
    rank: int = 32
    scale: float = 2.0
    rate: float = 1.0
    mlp_only: bool = False
    start: str = "zero"


SETTINGS = (
    Setting("automatic (rank 32, alpha 64)"),
    Setting("half the rate", rate=0.5),
    Setting("twice the rate", rate=2.0),
    Setting("alpha 8 (a quarter of the rank)", scale=0.25),
    Setting("alpha 8, four times the rate", scale=0.25, rate=4.0),
    Setting("alpha 32 (the rank)", scale=1.0),
    Setting("alpha 181 (rank-stabilized)", scale=32**0.5),
    Setting("alpha 181, half the rate", scale=32**0.5, rate=0.5),
    Setting("rank 8", rank=8),
    Setting("rank 16", rank=16),
    Setting("rank 64", rank=64),
    Setting("rank 128", rank=128),
    Setting("MLP only", mlp_only=True),
    Setting("MLP only, rank 64", rank=64, mlp_only=True),
    Setting("starts at what rounding took", start="error"),
    Setting("the same, balanced", start="balanced"),
)


def write_docstrings(path: Path, most: int = 2000) -> None:
    """Records of a question on an object of the standard library and the first paragraph of its docstring."""
    records = []
    root = Path(sysconfig.get_path("stdlib"))
    for file in sorted(root.rglob("*.py")):
        if {"site-packages", "dist-packages", "test", "tests", "idlelib"} & set(file.parts):
            continue
        module = ".".join(file.relative_to(root).with_suffix("").parts)
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                first = text.split("\n\n")[0].replace("\n", " ")
                if 30 < len(first) < 300:
                    records.append({"prompt": f"What does {node.name} of {module} do?", "response": first})
    random.Random(0).shuffle(records)
    path.write_text("".join(json.dumps(each) + "\n" for each in records[:most]), encoding="utf-8")


@dataclass(frozen=True)
class Bed:
    """What one training needs; made once for a model and a task."""

    name: str
    task: str
    float_model: Path
    base: Path
    data: Path
    steps: int
    others: int


def _other_texts(bed: Bed) -> Texts:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bed.float_model)
    texts = (documentation if OTHER[bed.task] == "documentation" else travel)(tokenizer)
    return replace(texts, held_out=texts.held_out[: bed.others])


def _rows(bed: Bed) -> tuple[Any, Any, Any]:
    """Training rows, held-out rows, and the settled recipe."""
    from core.data import load_examples
    from core.finetune.rows import tokenize
    from core.model.auto import Facts, resolve
    from core.model.text import read_text
    from core.model.tokenizer import ModelTokenizer
    from core.recipe import Recipe

    asked = Recipe().with_values({"data.file": str(bed.data), "data.max_seq_len": 256})
    recipe = resolve(asked, Facts.of(bed.base), None).recipe
    text = read_text(bed.base)
    tokenizer = ModelTokenizer.read(bed.base, text.ends)
    split = load_examples(recipe, bed.data.parent, text=text)
    train, held = (tokenize(each, tokenizer, max_len=256) for each in (split.train, split.eval))
    return train.rows, held.rows[:128], recipe


def _grams(model: Any, rows: Any, names: list[str]) -> dict[str, torch.Tensor]:
    """Of each layer's input, on the training rows."""
    modules = dict(model.named_modules())
    grams: dict[str, torch.Tensor] = {}
    hooks = []
    for name in names:

        def keep(_: Any, inputs: Any, name: str = name) -> None:
            seen = inputs[0].reshape(-1, inputs[0].shape[-1]).float()
            grams[name] = grams[name].addmm_(seen.T, seen) if name in grams else seen.T @ seen

        hooks.append(modules[name].register_forward_pre_hook(keep))
    with torch.no_grad():
        for row in rows[:256]:
            model(input_ids=torch.tensor([row.ids], device=model.device), use_cache=False)
    for hook in hooks:
        hook.remove()
    return grams


def _rescaled(wanted: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
    """The float weights in the scales of the packed ones: AWQ moves factors between layers, by row and by column."""
    rows = torch.ones(len(wanted), 1, device=wanted.device)
    columns = torch.ones(1, wanted.shape[1], device=wanted.device)
    for _ in range(20):
        columns = (wanted * rows * packed).sum(0, keepdim=True) / (wanted * rows).square().sum(
            0, keepdim=True
        )
        both = wanted * columns
        rows = (both * packed).sum(1, keepdim=True) / both.square().sum(1, keepdim=True).clamp(min=1e-12)
    return wanted * rows * columns


def _start(peft_model: Any, float_model: Any, rows: Any, way: str) -> None:
    """Set A and B to the best low-rank stand-in for what rounding took, weighted by what the layers read."""
    layers = {
        name.removeprefix("base_model.model."): module
        for name, module in peft_model.named_modules()
        if hasattr(module, "lora_A")
    }
    floats = dict(float_model.named_modules())
    model = peft_model.get_base_model()
    grams = _grams(model, rows, list(layers))
    for name, layer in layers.items():
        packed = layer.base_weight(torch.float32)
        error = _rescaled(floats[name].weight.data.float(), packed) - packed
        gram = grams[name]
        gram.diagonal().add_(0.01 * gram.diagonal().mean())
        root = torch.linalg.cholesky(gram)
        u, s, v = torch.linalg.svd(error @ root, full_matrices=False)
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        rank = len(a)
        low = torch.linalg.solve_triangular(root.T, v[:rank].T, upper=True).T  # V^T S^-1
        if way == "balanced":
            size = s[:rank].sqrt().unsqueeze(1)
            scale = layer.scaling["default"] ** 0.5
            a.data.copy_(size * low / scale)
            b.data.copy_(u[:, :rank] * size.T / scale)
        else:  # A as long as PEFT makes it, so that it learns at the same pace
            length = low.norm(dim=1, keepdim=True) / a.data.norm(dim=1).mean()
            a.data.copy_(low / length)
            b.data.copy_(u[:, :rank] * (s[:rank].unsqueeze(1) * length).T / layer.scaling["default"])


def run(bed: Bed, setting: Setting, seed: int) -> tuple[float, float, float, float]:
    """Held-out loss before and after, and KL on the other kind of text before and after."""
    logging.disable(logging.WARNING)
    from core.events import Reporter
    from core.finetune.device import fuse_norms, training_device, training_dtype
    from core.finetune.loop import Settings, Trainer
    from core.finetune.lora_layer import add_lora
    from core.olive.checkpoint import load_model, unpack_linears

    torch.set_num_threads(1 if torch.cuda.is_available() else torch.get_num_threads())
    device = training_device()
    dtype = training_dtype(device)
    rows, held, recipe = _rows(bed)
    texts = _other_texts(bed).held_out
    float_model = load_model(bed.float_model, dtype=torch.float32).to(device).eval()
    base = load_model(bed.base, device=str(device), dtype=dtype)
    unpack_linears(base, dtype)
    if device.type == "cuda":
        fuse_norms(base)
    torch.manual_seed(seed)
    model = add_lora(
        base, rank=setting.rank, alpha=setting.scale * setting.rank, targets=MLP if setting.mlp_only else None
    )
    if setting.start != "zero":
        _start(model, float_model, rows, setting.start)
    # Asked anew each time: what it says of all rows at once is 17 GB with a vocabulary as large as Gemma's.

    def far() -> float:
        total = 0.0
        for row in texts:
            want = log_probabilities(float_model, row)
            total += (want.exp() * (want - log_probabilities(base, row))).sum().item()
        return total / sum(map(len, texts))

    before = far()
    settings = Settings(
        steps=bed.steps,
        batch_size=BATCH,
        accumulation=1,
        learning_rate=recipe.finetune.learning_rate * setting.rate,
        warmup_ratio=0.03,
        seed=seed,
        save_steps=10**9,
    )
    course = Trainer(base, rows, held, settings, Reporter()).train()
    base.eval()
    first, last = course.eval_losses[0][1], course.kept_loss
    assert last is not None
    return first, last, before, far()


def cell(values: list[float]) -> str:
    """Mean and spread."""
    spread = f" ± {(max(values) - min(values)) / 2:.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def measure(name: str, folder: Path, options: argparse.Namespace, pool: ProcessPoolExecutor) -> None:
    """All settings on one model; prints its tables."""
    from transformers import AutoTokenizer

    from core.resources import sample_data

    work: Path = options.work / name
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    write_docstrings(work / "docstrings.jsonl")
    beds = []
    for task in options.tasks.split(","):
        rows = documentation(tokenizer) if task == "docstrings" else travel(tokenizer)
        made, _ = quantized(folder, "awq+gptq", 64, rows.draw(0), work / task)
        data = sample_data() if task == "travel" else work / "docstrings.jsonl"
        beds.append(Bed(name, task, folder, made, data, options.steps, options.rows))
    wanted = [each for each in SETTINGS if any(part in each.name for part in options.only.split(";"))]
    for bed in beds:
        jobs = {
            (each, seed): pool.submit(run, bed, each, seed)
            for each in wanted
            for seed in range(options.seeds)
        }
        print(f"\n**{name}, {bed.task}**, {options.steps} steps of {BATCH} rows, {options.seeds} seeds\n")
        print("| setting | loss at the start | held-out loss | KL at the start | KL on other text |")
        print("|---|---|---|---|---|")
        for each in wanted:
            found = [jobs[each, seed].result() for seed in range(options.seeds)]
            first, last, before, after = ([line[i] for line in found] for i in range(4))
            print(
                f"| {each.name} | {first[0]:.3f} | {cell(last)} | {before[0]:.3f} | {cell(after)} |",
                flush=True,
            )


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--tasks", default="travel,docstrings")
    parser.add_argument("--only", default="", help="settings whose name holds one of these (a;b)")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument(
        "--rows", type=int, default=32, help="rows of other text that forgetting is measured on"
    )
    parser.add_argument("--workers", type=int, default=8 if torch.cuda.is_available() else 1)
    parser.add_argument("--work", type=Path, default=Path("/tmp/olivepress-lora-choices"))
    options = parser.parse_args()

    from core.olive.run import import_olive
    from core.stage_context import versions

    import_olive()
    logging.disable(logging.WARNING)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=context) as pool:
        for each in options.model:
            name, _, folder = each.partition("=")
            measure(name, Path(folder), options, pool)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} cores"
    found = ", ".join(f"{k} {v}" for k, v in versions("olive-ai", "torch", "transformers", "peft").items())
    print(f"\n{platform.machine()}, {device}; {found}")


if __name__ == "__main__":
    main()
