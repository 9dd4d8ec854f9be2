"""How near each algorithm's int4 model is to a real float one: the tables of docs/awq.md.

    python benchmarks/real_quality.py --model NAME=FOLDER [--model ...] [--groups 32,64] [--seeds 3]
                                      [--methods rtn,awq] [--calibration travel,documentation]

FOLDER is a Hugging Face folder of a float model. Two kinds of text: the docstrings of Python's standard library, and
the bundled travel questions with their answers, in the model's own chat template if it has one. A seed draws
what is calibrated on (128 rows of 512 tokens of documentation; all travel rows but a quarter); what is held out
of both kinds is the same for all, and no model is calibrated on it. KL is the mean divergence of
the next-token distribution from the float model's, in nats. The output matrix is rounded to 8 bits by all methods.
Runs on the GPU if there is one.
"""

from __future__ import annotations

import argparse
import ast
import json
import logging
import os
import platform
import random
import shutil
import statistics
import sys
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.update(OLIVE_DISABLE_TELEMETRY="1", ORT_DISABLE_TELEMETRY="1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

METHODS = "rtn,kquant,gptq,awq,awq+gptq"
KINDS = ("documentation", "travel")
Rows = list[list[int]]


@dataclass(frozen=True)
class Texts:
    """Token rows of one kind of text: what may be calibrated on, and what is held out."""

    calibration: Rows
    held_out: Rows

    def draw(self, seed: int, most: int = 128) -> Rows:
        """The rows of one repetition: 128, or nine tenths where there are no more than that."""
        count = min(most, len(self.calibration) * 9 // 10)
        return random.Random(seed).sample(self.calibration, count)


def documentation(tokenizer: Any) -> Texts:
    """Docstrings of the standard library, file by file, a quarter of the files held out."""
    files = sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py"))
    texts = []
    for file in files:
        if {"site-packages", "dist-packages", "test", "tests", "idlelib"} & set(file.parts):
            continue
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
        text = "\n\n".join(each for each in found if each and len(each) > 120)
        if text:
            texts.append(text)
    random.Random(0).shuffle(texts)
    held, rest = texts[: len(texts) // 4], texts[len(texts) // 4 :]
    return Texts(pieces(tokenizer, rest), pieces(tokenizer, held)[:32])


def pieces(tokenizer: Any, texts: list[str], length: int = 512) -> Rows:
    """Pieces of the texts, each begun as the tokenizer begins a text: Gemma reads nothing right without its BOS."""
    ids = [token for text in texts for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
    begin = tokenizer("a")["input_ids"][:1]
    begin = begin if begin == [tokenizer.bos_token_id] else []
    length -= len(begin)
    return [begin + ids[start : start + length] for start in range(0, len(ids) - length, length)]


def travel(tokenizer: Any) -> Texts:
    """The bundled questions and answers, a quarter of them held out."""
    from core.resources import sample_data

    rows = []
    for line in sample_data().read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        turns = [
            {"role": "user", "content": record["prompt"]},
            {"role": "assistant", "content": record["response"]},
        ]
        if tokenizer.chat_template:
            text = tokenizer.apply_chat_template(turns, tokenize=False)
        else:
            text = f"{record['prompt']}\n{record['response']}"
        rows.append(list(tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"]))
    random.Random(0).shuffle(rows)
    return Texts(rows[len(rows) // 4 :], rows[: len(rows) // 4][:64])


def log_probabilities(model: Any, row: list[int]) -> torch.Tensor:
    """(tokens, vocabulary), float32, on the model's device."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([row], device=model.device), use_cache=False).logits[0]
    return logits.float().log_softmax(-1)


def quantized(folder: Path, method: str, group: int, rows: Rows, work: Path) -> tuple[Path, float]:
    """Quantize as the lab's stage does; the folder and the seconds."""
    from core.events import Reporter
    from core.folder import LabFolder
    from core.model.auto import Facts, resolve
    from core.quantize import stage
    from core.recipe import Recipe
    from core.stage_context import StageContext

    asked = Recipe().with_values({"quantize.algorithm": method, "quantize.group_size": group})
    recipe = resolve(asked, Facts.of(folder), None).recipe
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    began = time.monotonic()
    made, _ = stage.run_pass(StageContext(LabFolder(work), recipe, Reporter(), work, {}, {}), folder, rows)
    return made, time.monotonic() - began


class Judge:
    """How far models are from the float one on the held-out rows."""

    def __init__(self, folder: Path, texts: dict[str, Texts]) -> None:
        self._texts = texts
        self._float = self._open(folder)

    @staticmethod
    def _open(folder: Path) -> Any:
        from core.olive.checkpoint import load_model

        device = "cuda" if torch.cuda.is_available() else "cpu"
        return load_model(folder, dtype=torch.float32).to(device).eval()

    def judge(self, folder: Path) -> dict[str, tuple[float, float]]:
        """For each kind of text the KL divergence, and the share of tokens with the same likeliest next one."""
        model = self._open(folder)
        found = {}
        for kind, texts in self._texts.items():
            far = same = tokens = 0.0
            for row in texts.held_out:
                got, want = log_probabilities(model, row), log_probabilities(self._float, row)
                far += (want.exp() * (want - got)).sum().item()
                same += (want.argmax(-1) == got.argmax(-1)).sum().item()
                tokens += len(row)
            found[kind] = (far / tokens, same / tokens)
        return found


def cell(values: list[float]) -> str:
    """Mean and standard deviation."""
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def measure(name: str, folder: Path, options: argparse.Namespace) -> None:
    """All methods on one model; prints its tables."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = {"documentation": documentation(tokenizer), "travel": travel(tokenizer)}
    judge = Judge(folder, texts)
    for calibration in options.calibration.split(","):
        for group in map(int, options.groups.split(",")):
            print(f"\n**{name}**, group {group}, calibrated on {calibration}, {options.seeds} seeds\n")
            print("| method | KL, documentation | KL, travel | same likeliest token | time |")
            print("|---|---|---|---|---|")
            for method in options.methods.split(","):
                seeds = 1 if method in ("rtn", "kquant") else options.seeds
                kls: dict[str, list[float]] = {kind: [] for kind in KINDS}
                same: dict[str, list[float]] = {kind: [] for kind in KINDS}
                times = []
                for seed in range(seeds):
                    made, seconds = quantized(
                        folder, method, group, texts[calibration].draw(seed), options.work / "run"
                    )
                    times.append(seconds)
                    for kind, (far, share) in judge.judge(made).items():
                        kls[kind].append(far)
                        same[kind].append(share)
                shares = " and ".join(f"{100 * statistics.mean(same[kind]):.0f} %" for kind in KINDS)
                print(
                    f"| {method} | {cell(kls['documentation'])} | {cell(kls['travel'])} | {shares} |"
                    f" {statistics.median(times):.0f} s |",
                    flush=True,
                )


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--groups", default="32,64")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--calibration", default=",".join(KINDS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("/tmp/olivepress-real-quality"))
    run(parser.parse_args(), measure)


def run(options: argparse.Namespace, measured: Callable[[str, Path, argparse.Namespace], None]) -> None:
    """Measure each model that was named, and tell where."""
    from core.olive.run import import_olive
    from core.stage_context import versions

    import_olive()
    logging.disable(logging.WARNING)  # Olive writes every step
    for each in options.model:
        name, _, folder = each.partition("=")
        measured(name, Path(folder), options)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} cores"
    found = ", ".join(f"{k} {v}" for k, v in versions("olive-ai", "torch", "transformers").items())
    print(f"\n{platform.machine()}, {device}; {found}")


if __name__ == "__main__":
    main()
