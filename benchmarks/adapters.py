"""What an adapter costs: ``python -m benchmarks.adapters FOLDER``.

Makes a model of the shape of Phi-3.5-mini-instruct with random weights (``--layers`` and ``--hidden`` make it
smaller), rounds it to 4 bits, builds it for ``--provider``, and times answers: of the base alone, and with an
adapter of rank 64 on all linear layers, as inputs of the graph and inside it. An adapter that is merged costs
nothing: its graph is that of the base alone. What is made stays in FOLDER, so that a second run only measures;
``--model`` takes a folder of the optimize step instead.

All kinds take turns at every token. The same model loaded again differs by some percent, by where its weights come to
lie, so all are loaded ``--loads`` times. Printed, as lines of ``docs/benchmarks.md``, are the means of the loads'
medians, with the lowest and highest, and the processor's time, which tells more where other work shares the machine:
beside the base's for the same token, the median of each load, their mean and its standard error. The base is there a
second time, which shows what a difference of nothing looks like. ``--only`` times kinds by words of their names;
``--profile`` adds where the time of a token goes.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.optimize.adapters import LAYOUT_FILE, AdapterLayout, read_layout, write_adapter_file
from core.optimize.genai import import_genai

PROMPT = 64


def build(folder: Path, provider: str, layers: int, hidden: int) -> Path:
    """The base in ONNX, made once."""
    from core.events import Reporter
    from core.model.folder import model_facts
    from core.olive.run import run_workflow, workflow
    from core.optimize.build import build_base, choose

    mark = folder / f"{provider}.json"
    if mark.exists():
        return Path(json.loads(mark.read_text()))
    source = folder / "float"
    if not (source / "config.json").exists():
        subprocess.run(
            [
                *(sys.executable, "-m", "benchmarks.full_size", str(source), "--only-model"),
                *("--layers", str(layers), "--hidden", str(hidden)),
            ],
            check=True,
        )
    rtn = {
        "type": "Rtn",
        "bits": 4,
        "group_size": 128,
        "lm_head": True,
        "overrides": {"lm_head": {"bits": 8}},
    }
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        rounded = run_workflow(
            workflow(source, {"rtn": rtn}), work=folder / "rounded", report=Reporter()
        ).model_path
        device = "cpu" if provider == "CPUExecutionProvider" else "gpu"
        made, _ = build_base(
            rounded,
            choose(model_facts(rounded), "int4", provider),
            device=device,
            provider=provider,
            base_digest="benchmark",
            work=folder / f"build-{device}",
            report=Reporter(),
        )
    mark.write_text(json.dumps(str(made.resolve())))
    return made


def random_adapter(layout: AdapterLayout, rank: int) -> dict[str, Any]:
    """Random matrices for every branch."""
    import torch

    torch.manual_seed(0)
    return {
        name: torch.randn([rank if size is None else size for size in shape]) * 0.01
        for name, shape in layout.inputs().items()
    }


def changed(folder: Path, target: Path, change: Callable[[Any], None]) -> Path:
    """A copy of a model folder beside it, weights linked, with another graph."""
    import onnx

    from core.optimize.build import linked_copy

    linked_copy(folder, target)
    model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    change(model)
    (target / "model.onnx").unlink()
    onnx.save(model, str(target / "model.onnx"))
    return target


def without_places(model: Any) -> None:
    """Take inputs for adapters out of a graph."""
    graph = model.graph
    whole = {node.input[0]: node.output[0] for node in graph.node if node.name.endswith("/lora/Add")}
    kept = [node for node in graph.node if "/lora" not in node.name]
    for node in kept:
        node.output[:] = [whole.get(name, name) for name in node.output]
    del graph.node[:]
    graph.node.extend(kept)
    for items in (graph.input, graph.initializer):
        rest = [item for item in items if ".lora_" not in item.name]
        del items[:]
        items.extend(rest)


def with_places(layout: AdapterLayout, dtype: str, given: str) -> Callable[[Any], None]:
    """Put inputs for adapters into a graph that has none; where ``given`` is not ``dtype``, each is cast."""

    def change(model: Any) -> None:
        from onnx import TensorProto, helper

        from core.optimize.branches import add_branches, find_projections

        graph = model.graph
        known = {
            f"model.layers.{p.layer}.{p.block}.{p.kind}.lora_B": p
            for p in find_projections(graph.node, graph.initializer)
        }
        planned = [(each, [known[output.name] for output in each.outputs]) for each in layout.branches]
        add_branches(model, planned, dtype)
        if given == dtype:
            return
        kinds = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT}
        nodes = []
        for node in graph.node:
            for place, name in enumerate(node.input):
                if ".lora_" in name:
                    node.input[place] = f"{name}.cast"
                    nodes.append(helper.make_node("Cast", [name], [f"{name}.cast"], to=kinds[dtype]))
            nodes.append(node)
        del graph.node[:]
        graph.node.extend(nodes)
        for item in graph.input:
            if ".lora_" in item.name:
                item.type.tensor_type.elem_type = kinds[given]
        for item in graph.initializer:
            if ".lora_" in item.name:
                item.data_type = kinds[given]

    return change


class Kind:
    """A loaded model, with an adapter in use or none."""

    def __init__(self, folder: Path, adapter: Path | None, threads: int, profile: Path | None = None) -> None:
        og = import_genai()
        config = og.Config(str(folder))
        options: dict[str, Any] = {"intra_op_num_threads": threads} if threads else {}
        if profile:
            options["enable_profiling"] = str(profile)
        if options:
            config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self._model = og.Model(config)
        self._adapters = None
        if adapter:
            self._adapters = og.Adapters(self._model)
            self._adapters.load(str(adapter), "one")

    def begin(self, tokens: int) -> None:
        """Read a prompt, and the first words of an answer of so many more tokens."""
        import numpy as np

        og = import_genai()
        params = og.GeneratorParams(self._model)
        length = PROMPT + 4 + tokens
        params.set_search_options(max_length=length, min_length=length, do_sample=False)
        self._generator = og.Generator(self._model, params)
        if self._adapters is not None:
            self._generator.set_active_adapter(self._adapters, "one")
        self._generator.append_tokens(np.random.default_rng(0).integers(5, 380, PROMPT).astype(np.int32))
        for _ in range(3):
            self._generator.generate_next_token()

    def step(self) -> tuple[float, float]:
        """One token more: milliseconds, and milliseconds of the processor."""
        began, work = time.perf_counter(), time.process_time()
        self._generator.generate_next_token()
        return 1e3 * (time.perf_counter() - began), 1e3 * (time.process_time() - work)


def kinds(folder: Path, work: Path, rank: int) -> dict[str, tuple[Path, Path | None]]:
    """Model folder and adapter file of each kind that is timed."""
    from core.optimize.adapters import write_switch_file
    from core.optimize.adding import add_adapter
    from core.optimize.build import linked_copy

    layout = read_layout(folder)
    tensors = random_adapter(layout, rank)
    plain = changed(folder, work / "plain", without_places)
    again = changed(folder, work / "again", without_places)
    found: dict[str, tuple[Path, Path | None]] = {
        "the base alone, or an adapter merged": (plain, None),
        "the same again": (again, None),
    }
    dtype = layout.computes_in if layout.inside is not None else layout.dtype
    for given in ("float16", "float32") if layout.inside is not None and dtype == "float32" else (dtype,):
        target = changed(plain, work / f"inputs-{given}", with_places(layout, dtype, given))
        file = target / "one.onnx_adapter"
        write_adapter_file(tensors, given, file)
        found[f"adapter as inputs in {given}, none given"] = (target, None)
        found[f"adapter as inputs in {given}"] = (target, file)
    if layout.inside is not None:
        target = linked_copy(folder, work / "inside")
        add_adapter(target, "one", tensors, {})
        write_switch_file("one", target / "one.onnx_adapter")
        found[f"adapter inside in {layout.dtype}, off"] = (target, None)
        found[f"adapter inside in {layout.dtype}"] = (target, target / "one.onnx_adapter")
        target = linked_copy(target, work / "two")
        add_adapter(target, "two", tensors, {})
        found[f"two adapters inside in {layout.dtype}, off"] = (target, None)
        found[f"two adapters inside in {layout.dtype}, one on"] = (target, target / "one.onnx_adapter")
        if not layout.whole:
            target = linked_copy(folder, work / "whole")
            (target / LAYOUT_FILE).unlink()  # a link
            replace(layout, whole=True).save(target)
            add_adapter(target, "one", tensors, {})
            found["one `If` around the whole graph, as on CUDA, off"] = (target, None)
    return found


def profiled(name: str, folder: Path, adapter: Path | None, threads: int, work: Path) -> str:
    """Where the milliseconds of a token go, by operator."""
    prefix = work / "profile"
    for old in work.glob("profile*.json"):
        old.unlink()
    kind = Kind(folder, adapter, threads, prefix)
    kind.begin(16)
    for _ in range(12):
        kind.step()
    del kind
    gc.collect()
    (file,) = work.glob("profile*.json")
    events = json.loads(file.read_text())
    runs = [event for event in events if event.get("name") == "model_run"][-8:]
    spent: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for event in events:
        inside = any(run["ts"] <= event["ts"] < run["ts"] + run["dur"] for run in runs)
        if inside and event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            spent[event["args"]["op_name"]] += event["dur"]
            count[event["args"]["op_name"]] += 1
    each = [
        f"{op} {count[op] // len(runs)} x, {spent[op] / len(runs) / 1e3:.2f}"
        for op, _ in spent.most_common(8)
    ]
    whole = sum(run["dur"] for run in runs) / len(runs) / 1e3
    return f"{name}: {whole:.2f} ms a token: {'; '.join(each)}"


def main() -> int:
    """Make, time, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--provider", default="CPUExecutionProvider")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=3072)
    parser.add_argument("--model", type=Path, help="a folder of the optimize step")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--loads", type=int, default=3, help="load all so many times, in another order")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--only", default="", help="words of the names of the kinds to be timed, with commas")
    parser.add_argument("--profile", action="store_true")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    folder = asked.model or build(asked.folder, asked.provider, asked.layers, asked.hidden)
    import tempfile

    # Beside the model, so that its weights can be linked.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="adapters-") as scratch:
        work = Path(scratch)
        timed = kinds(folder, work, asked.rank)
        first = next(iter(timed))
        words = asked.only.split(",")
        timed = {name: each for name, each in timed.items() if name == first or any(w in name for w in words)}
        took: dict[str, list[float]] = {name: [] for name in timed}
        spent: dict[str, list[float]] = {name: [] for name in timed}
        ratio: dict[str, list[float]] = {name: [] for name in timed}
        for number in range(asked.loads):
            order = random.Random(number).sample(list(timed), len(timed))
            loaded = {name: Kind(*timed[name], asked.threads) for name in order}
            for kind in loaded.values():
                kind.begin(asked.tokens)
            steps = [{name: kind.step() for name, kind in loaded.items()} for _ in range(asked.tokens)]
            for name in loaded:
                took[name].append(statistics.median(step[name][0] for step in steps))
                spent[name].append(statistics.median(step[name][1] for step in steps))
                ratio[name].append(statistics.median(step[name][1] / step[first][1] for step in steps))
            del loaded, kind
            gc.collect()
        base = statistics.mean(took[first])
        cores = asked.threads or len(os.sched_getaffinity(0))
        print(
            f"| {asked.provider}, {cores} cores, rank {asked.rank} | tokens/s | slower by | CPU time a token |"
        )
        print("|---|---|---|---|")
        for name in timed:
            mean, work_ms = statistics.mean(took[name]), statistics.mean(spent[name])
            low, high = 1e3 / max(took[name]), 1e3 / min(took[name])
            error = statistics.stdev(ratio[name]) / len(ratio[name]) ** 0.5 if asked.loads > 1 else 0.0
            more = f"{work_ms:.2f} ms ({statistics.mean(ratio[name]) - 1:+.1%} ± {error:.1%})"
            print(f"| {name} | {1e3 / mean:.1f} ({low:.1f} to {high:.1f}) | {1 - base / mean:.1%} | {more} |")
        sys.stdout.flush()
        if asked.profile:
            for name, each in timed.items():
                print(profiled(name, *each, asked.threads, work))
    return 0


if __name__ == "__main__":
    sys.exit(main())
