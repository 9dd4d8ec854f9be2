"""How near each algorithm's int4 model is to the float one, on small models trained here.

    python benchmarks/quality.py [--models rehearsal,llama] [--groups 32,128] [--seeds 3] [--rows 128]
                                 [--work FOLDER] [--llm-compressor PYTHON]

Each repetition draws its own calibration rows and held-out rows by a seed, the same for every method.
KL is the mean divergence of the next-token distribution from the float model's, in nats x 1000, with its
standard deviation over the seeds. The output matrix is rounded to 8 bits in all rows but the float one.
A method such as ``awq:down_proj`` gives the layers of that kind 8 bits and the others 4, ``awq:o_proj,down_proj``
those of two kinds; methods are then separated by spaces. PYTHON is that of an environment with
llm-compressor (see llm_compressor_awq.py).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.update(OLIVE_DISABLE_TELEMETRY="1", ORT_DISABLE_TELEMETRY="1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.small_models import Subject, rehearsal, trained_llama

METHODS = ("rtn", "kquant", "gptq", "awq", "awq+gptq")
LLM_COMPRESSOR = "llm-compressor AWQ"


@dataclass
class Row:
    """One measurement."""

    kl: float
    perplexity: float
    seconds: float
    peak: float
    size: int


class Peak:
    """The process's largest resident memory while it is entered, above what it was before."""

    def __enter__(self) -> Peak:
        import psutil

        self._process, self._stop = psutil.Process(), threading.Event()
        self._before = self.most = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self.most = max(self.most, self._process.memory_info().rss)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def mebibytes(self) -> float:
        """How much memory the work took."""
        return float(self.most - self._before) / 2**20


def olive(subject: Subject, method: str, group: int, rows: Path, work: Path) -> tuple[Any, float, float, int]:
    """Quantize as the lab's stage does; the model, seconds, peak MiB, bytes."""
    import torch

    from core.events import Reporter
    from core.folder import LabFolder
    from core.model.auto import Facts, resolve
    from core.olive.checkpoint import load_model
    from core.quantize import stage as quantize
    from core.recipe import Recipe
    from core.stage_context import StageContext

    algorithm, _, wide = method.partition(":")
    asked = Recipe().with_values(
        {"quantize.algorithm": algorithm, "quantize.group_size": group, "quantize.eight_bit_layers": wide}
    )
    recipe = resolve(asked, Facts.of(subject.path), None).recipe
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    context = StageContext(LabFolder(work), recipe, Reporter(), work, {}, {})
    tokens = json.loads(rows.read_text())["input_ids"]
    with Peak() as peak:
        started = time.monotonic()
        made, _ = quantize.run_pass(context, subject.path, tokens)
        seconds = time.monotonic() - started
    size = sum(file.stat().st_size for file in made.glob("*.safetensors"))
    return load_model(made, dtype=torch.float32), seconds, peak.mebibytes, size


def llm_compressor(
    python: str, subject: Subject, group: int, rows: Path, work: Path
) -> tuple[Any, float, float, int]:
    """The reference, in its own environment; its weights in a float model, the output matrix as ours."""
    import torch
    from safetensors.torch import load_file

    from core.olive.checkpoint import load_model
    from core.quantize.awq_math import Grid

    work.mkdir(parents=True, exist_ok=True)
    out = work / "reference.safetensors"
    script = Path(__file__).with_name("llm_compressor_awq.py")
    done = subprocess.run(
        [python, str(script), str(subject.path), str(rows), str(group), str(out)],
        capture_output=True,
        text=True,
        check=False,
        cwd=work,
    )
    if done.returncode:
        raise SystemExit(f"llm-compressor failed:\n{done.stderr[-2000:]}")
    model: Any = load_model(subject.path, dtype=torch.float32)
    model.load_state_dict(load_file(out))
    model.lm_head.weight.data = Grid(8, False, group).rounded(model.lm_head.weight.data)
    return model, float(json.loads(done.stdout.splitlines()[-1])["seconds"]), 0.0, 0


def measure(subject: Subject, options: argparse.Namespace, group: int, seed: int) -> dict[str, Row]:
    """All methods on one draw of rows."""
    import torch

    from core.events import Reporter
    from core.olive.checkpoint import load_model
    from core.quantize.calibration import write_rows
    from core.quantize.quality import compare, of_model, reference, within_budget

    calibration, held_out = subject.draw(options.rows, seed)
    work = options.work / "run"
    rows = options.work / "rows.json"
    write_rows(rows, calibration)
    report = Reporter()
    float_model: Any = load_model(subject.path, dtype=torch.float32)
    held_out = within_budget(held_out, float_model.config.vocab_size, 8192)
    expected = reference(of_model(float_model), held_out, report)
    size = sum(file.stat().st_size for file in subject.path.glob("*.safetensors"))
    itself = compare(expected, of_model(float_model), held_out, report)
    found = {"float": Row(itself.kl, itself.perplexity, 0.0, 0.0, size)}
    makers: dict[str, Callable[[], tuple[Any, float, float, int]]] = {
        name: lambda name=name: olive(subject, name, group, rows, work)  # type: ignore[misc]
        for name in (options.methods.split() if ":" in options.methods else options.methods.split(","))
    }
    if options.llm_compressor:
        makers[LLM_COMPRESSOR] = lambda: llm_compressor(options.llm_compressor, subject, group, rows, work)
    for name, make in makers.items():
        model, seconds, peak, bytes_ = make()
        quality = compare(expected, of_model(model), held_out, report)
        found[name] = Row(quality.kl, quality.perplexity, seconds, peak, bytes_)
        print(
            f"{subject.name}, group {group}, seed {seed}, {name}: KL x 1000 {1000 * quality.kl:.3f},"
            f" perplexity {quality.perplexity:.3f}, {seconds:.1f} s",
            file=sys.stderr,
            flush=True,
        )
    return found


def table(subject: Subject, group: int, runs: list[dict[str, Row]]) -> list[str]:
    """The mean over the seeds, as Markdown."""
    lines = [
        f"**{subject.name}**, group {group}, {len(runs)} seeds",
        "",
        "| method | KL x 1000 | perplexity | time | peak memory | size |",
        "|---|---|---|---|---|---|",
    ]
    for name in runs[0]:
        rows = [run[name] for run in runs]
        kl = [1000 * row.kl for row in rows]
        spread = f" ± {statistics.stdev(kl):.2f}" if len(kl) > 1 and name != "float" else ""
        seconds = statistics.median(row.seconds for row in rows)
        peak = max(row.peak for row in rows)
        lines.append(
            f"| {name} | {statistics.mean(kl):.2f}{spread} | {statistics.mean(r.perplexity for r in rows):.3f} |"
            f" {f'{seconds:.1f} s' if seconds else ''} | {f'{peak:.0f} MiB' if peak else ''} |"
            f" {f'{rows[0].size / 1e6:.2f} MB' if rows[0].size else ''} |"
        )
    return [*lines, ""]


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="rehearsal,llama")
    parser.add_argument("--groups", default="32,128")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--work", type=Path, default=Path("/tmp/olivepress-quality"))
    parser.add_argument("--llm-compressor", metavar="PYTHON")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)

    import torch

    from core.olive.run import import_olive
    from core.stage_context import versions

    import_olive()
    logging.getLogger("olive").handlers.clear()  # it writes every step to standard output
    makers: dict[str, Callable[[], Subject]] = {
        "rehearsal": rehearsal,
        "llama": lambda: trained_llama(options.work / "llama"),
    }
    for name in options.models.split(","):
        subject = makers[name]()
        for group in map(int, options.groups.split(",")):
            runs = [measure(subject, options, group, seed) for seed in range(options.seeds)]
            print("\n".join(table(subject, group, runs)), flush=True)
    found = {**versions("olive-ai", "torch", "transformers"), "threads": torch.get_num_threads()}
    print(f"{platform.machine()}, {os.cpu_count()} cores; " + ", ".join(f"{k} {v}" for k, v in found.items()))


if __name__ == "__main__":
    main()
