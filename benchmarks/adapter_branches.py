"""What places for adapters cost, with an adapter and without, and what rounded activations are worth.

    python benchmarks/adapter_branches.py [FOLDER] [--tokens 64] [--rounds 7] [--threads 0]

FOLDER is a folder made by the optimize step; without one, a random Phi-3-like model of about 400
million weights is quantized and built first (its words mean nothing, its speed does). Compared are the
graph as it is, the same graph with its branches taken out, both with float32 activations instead of int8
ones, and the graph with an adapter of rank 64 in use, given in float16 (as it is made) and in float32.
Rounds alternate and the best of each counts, since other work on the machine only slows.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.update(OLIVE_DISABLE_TELEMETRY="1", ORT_DISABLE_TELEMETRY="1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def build(folder: Path) -> Path:
    """A random int4 model with branches, large enough that the work is in the model."""
    from core.events import Reporter
    from core.optimize.build import build_base, choose
    from tests.tiny_models import make_tiny

    sizes: dict[str, Any] = {"hidden": 2048, "layers": 8, "heads": 16, "kv_heads": 16, "intermediate": 5504}
    source = make_tiny("phi3", folder / "source", dtype="bfloat16", **sizes)
    from core.model.folder import model_facts
    from core.olive.run import run_workflow, workflow

    rtn = {
        "type": "Rtn",
        "bits": 4,
        "group_size": 128,
        "lm_head": True,
        "overrides": {"lm_head": {"bits": 8}},
    }
    done = run_workflow(workflow(source, {"rtn": rtn}), work=folder / "rounded", report=Reporter())
    rounded = done.model_path

    made, _ = build_base(
        rounded,
        choose(model_facts(rounded), "int4", "CPUExecutionProvider"),
        device="cpu",
        provider="CPUExecutionProvider",
        base_digest="benchmark",
        work=folder / "build",
        report=Reporter(),
    )
    return made


def variant(folder: Path, target: Path, *, branches: bool, level: int, wide: bool = False) -> Path:
    """A copy of a model folder, weights linked, with or without branches, at an accuracy level.

    Args:
        wide: the branches take their adapters in float32, without a cast.
    """
    import onnx

    target.mkdir(parents=True)
    for path in folder.iterdir():
        if path.name.startswith("model.onnx."):
            os.link(path, target / path.name)
        elif path.is_file() and path.name != "model.onnx":
            shutil.copyfile(path, target / path.name)
    model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    graph = model.graph
    if not branches:
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
    if wide:
        given = {
            node.output[0]: node.input[0]
            for node in graph.node
            if node.name.endswith(("lora_A/Cast", "lora_B/Cast"))
        }
        kept = [node for node in graph.node if node.output[0] not in given]
        for node in kept:
            node.input[:] = [given.get(name, name) for name in node.input]
        del graph.node[:]
        graph.node.extend(kept)
        for item in graph.input:
            if ".lora_" in item.name:
                item.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        for item in graph.initializer:
            if ".lora_" in item.name:
                item.data_type = onnx.TensorProto.FLOAT
    for node in graph.node:
        for item in node.attribute:
            if node.op_type == "MatMulNBits" and item.name == "accuracy_level":
                item.i = level
    onnx.save(model, str(target / "model.onnx"))
    return target


def load(folder: Path, threads: int) -> Any:
    """The model, with so many threads (0: as onnxruntime likes)."""
    import onnxruntime_genai as og

    config = og.Config(str(folder))
    if threads:
        config.overlay(
            json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}})
        )
    return og.Model(config)


def random_adapter(folder: Path, path: Path, dtype: str, rank: int = 64) -> Path:
    """An adapter file of random numbers for all branches of a model folder."""
    import torch

    from core.optimize.adapters import read_layout, write_adapter_file

    shapes = read_layout(folder).inputs()
    tensors = {
        name: torch.randn([rank if size is None else size for size in shape]) * 0.01
        for name, shape in shapes.items()
    }
    write_adapter_file(tensors, dtype, path)
    return path


def measure(model: Any, tokens: int, adapters: Any = None) -> tuple[float, float]:
    """Tokens a second while answering, and seconds to read a prompt of 64 tokens."""
    import numpy as np
    import onnxruntime_genai as og

    params = og.GeneratorParams(model)
    params.set_search_options(max_length=72 + tokens, min_length=72 + tokens, do_sample=False)
    generator = og.Generator(model, params)
    if adapters is not None:
        generator.set_active_adapter(adapters, "random")
    start = time.perf_counter()
    generator.append_tokens(np.arange(5, 69, dtype=np.int32))
    generator.generate_next_token()
    read = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(tokens):
        generator.generate_next_token()
    return tokens / (time.perf_counter() - start), read


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0)
    asked = parser.parse_args()
    import onnxruntime_genai as og

    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        if asked.folder is None:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                asked.folder = build(Path(scratch) / "made")
        kinds = {
            "int8 activations, no branches": (False, 4),
            "int8 activations, branches": (True, 4),
            "float32 activations, no branches": (False, 1),
            "float32 activations, branches": (True, 1),
        }
        # Weight files are linked, so the variants must stand on the disk of the model.
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=asked.folder.parent)))
        models: dict[str, tuple[Any, Any]] = {
            name: (
                load(variant(asked.folder, place / str(i), branches=branches, level=level), asked.threads),
                None,
            )
            for i, (name, (branches, level)) in enumerate(kinds.items())
        }
        narrow = variant(asked.folder, place / "narrow", branches=True, level=4)
        wide = variant(asked.folder, place / "wide", branches=True, level=4, wide=True)
        for folder, dtype in ((narrow, "float16"), (wide, "float32")):
            model = load(folder, asked.threads)
            adapters = og.Adapters(model)
            adapters.load(str(random_adapter(asked.folder, place / dtype, dtype)), "random")
            models[f"int8 activations, rank 64 in {dtype}"] = (model, adapters)
        rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
        for _ in range(asked.rounds):
            for name, (model, adapters) in models.items():
                rounds[name].append(measure(model, asked.tokens, adapters))
        for name, found in rounds.items():
            best, read = max(speed for speed, _ in found), min(seconds for _, seconds in found)
            print(f"{name:36} {best:8.1f} tokens/s   64 tokens read in {1000 * read:7.1f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
