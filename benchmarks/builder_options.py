"""What two options of the model builder are worth: ``python -m benchmarks.builder_options CHECKPOINT FOLDER``.

CHECKPOINT is a lab's ``models/quantized``. Built for ``--provider`` with a table of embeddings of its own, the same
with a cache of keys and values in 8 bits (scales by the builder's own calibration), and, for a model that ties the two,
with the embeddings looked up in the output matrix, as the optimize step does it. Printed for each: its size, how far
its next words are from the first one's over records of the sample, its loss there, and for a short and a long text the
time to read it, the processor's time for a token more, and the memory that the conversation took. Rows are read in
pieces of 20 tokens, so that all but the first see the cache.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from core.optimize.embedding import share_embedding
from core.optimize.genai import complete_config, import_genai
from core.optimize.genai_builder import build
from core.optimize.shrink import halve_embedding
from core.resources import sample_data

PLAIN = "with a table of embeddings"
PIECE = 20
SEEN = 20
"""Tokens of a row that are read before its next words are compared."""


def built(checkpoint: Path, folder: Path, provider: str, accuracy_level: int, **options: Any) -> Path:
    """A model folder with the embedding table in 16 bits, made once."""
    if not (folder / "genai_config.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        level = {"accuracy_level": accuracy_level} if provider == "CPUExecutionProvider" else {}
        work = folder.with_name(f"{folder.name}.work")
        build(
            checkpoint, folder, precision="int4", provider=provider, options={**level, **options}, work=work
        )
        complete_config(folder, [])
        if provider == "CPUExecutionProvider":
            model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
            halve_embedding(model, folder)
            onnx.save(model, str(folder / "model.onnx"))
    return folder


def calibrated(plain: Path, checkpoint: Path, file: Path) -> Path:
    """Scales for keys and values."""
    from onnxruntime_genai.models.quantization.kv_cache_calibration import calibrate_kv_scales

    if not file.exists():
        calibrate_kv_scales(
            str(plain / "model.onnx"),
            str(checkpoint),
            str(file),
            quant_type="int8_per_channel",
            target_seq=256,
            num_seqs=8,
        )
    return file


def with_shared_embedding(plain: Path, target: Path) -> Path | None:
    """A copy that looks its embeddings up in the output matrix, as the optimize step makes it; None if it has two."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(plain, target)
    model = onnx.load(str(plain / "model.onnx"), load_external_data=False)
    if not share_embedding(model, target):
        return None
    onnx.save(model, str(target / "model.onnx"))
    return target


def size(folder: Path) -> float:
    """MB of a graph and its weights."""
    return sum(path.stat().st_size for path in folder.glob("model.onnx*")) / 1e6


def logits(model: Any, row: Any) -> Any:
    """Log probabilities of a row's next words, read in pieces."""
    og = import_genai()
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(row) + 1)
    generator, found = og.Generator(model, params), []
    for start in range(0, len(row), PIECE):
        generator.append_tokens(row[start : start + PIECE])
        made = np.asarray(generator.get_output("logits")).astype(np.float32)
        found.append(made.reshape(-1, made.shape[-1]))
    scores = np.concatenate(found)
    scores -= scores.max(axis=1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def resident() -> int:
    """MiB of memory that this process has."""
    import psutil

    return int(psutil.Process().memory_info().rss) >> 20


class Conversation:
    """A text of random tokens, read, that goes on."""

    def __init__(self, model: Any, tokens: int, vocabulary: int) -> None:
        og = import_genai()
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=tokens + 80, min_length=tokens + 80)
        before, began = resident(), time.perf_counter()
        self._generator = og.Generator(model, params)
        text = np.random.default_rng(0).integers(100, vocabulary - 1000, tokens).astype(np.int32)
        for start in range(0, tokens, 256):
            self._generator.append_tokens(text[start : start + 256])
        self.read_s = time.perf_counter() - began
        self.mib = resident() - before
        self.spent: list[float] = []

    def step(self) -> None:
        """One token more."""
        began = time.process_time()
        self._generator.generate_next_token()
        self.spent.append(1e3 * (time.process_time() - began))


def main() -> int:
    """Build, compare, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--provider", default="CPUExecutionProvider")
    parser.add_argument("--level", type=int, default=4, help="4: activations are rounded on a CPU, 1: not")
    parser.add_argument("--no-cache", action="store_true", help="leave out keys and values in 8 bits")
    parser.add_argument("--long", type=int, default=2048)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    og, config = import_genai(), json.loads((asked.checkpoint / "config.json").read_text())
    plain = built(asked.checkpoint, asked.folder / "plain", asked.provider, asked.level)
    kinds = {PLAIN: plain}
    if not asked.no_cache:
        scales = calibrated(plain, asked.checkpoint, asked.folder / "scales.json")
        kinds["keys and values in 8 bits"] = built(
            asked.checkpoint,
            asked.folder / "cache",
            asked.provider,
            asked.level,
            kv_cache_quant_scheme="int8_per_channel",
            kv_cache_scale_file=str(scales),
        )
    shared = with_shared_embedding(plain, asked.folder / "shared")
    kinds.update({"embeddings from the output matrix": shared} if shared else {})
    for name, folder in kinds.items():
        print(f"{name}: {size(folder):.1f} MB")
    models = {name: og.Model(str(folder)) for name, folder in kinds.items()}
    tokenizer = og.Tokenizer(models[PLAIN])
    lines = sample_data().read_text(encoding="utf-8").splitlines()[:80]
    texts = [" ".join(str(value) for value in json.loads(line).values()) for line in lines]
    rows = [np.asarray(tokenizer.encode(text))[:220].astype(np.int32) for text in texts]
    first = [logits(models[PLAIN], row) for row in rows]
    for name, model in models.items():
        apart, same, loss = [], [], []
        for row, ours in zip(rows, first, strict=True):
            theirs = logits(model, row)
            apart.append((np.exp(ours) * (ours - theirs)).sum(axis=1)[SEEN:])
            same.append((ours.argmax(axis=1) == theirs.argmax(axis=1))[SEEN:])
            loss.append(-theirs[np.arange(len(row) - 1), row[1:]])
        print(
            f"{name}: {np.concatenate(apart).mean():.4f} nats a token from the first, the same likeliest word at "
            f"{np.concatenate(same).mean():.1%} of {sum(map(len, same))}, loss {np.concatenate(loss).mean():.4f}"
        )
    for tokens in (64, asked.long):
        talks = {
            name: Conversation(model, tokens, int(config["vocab_size"])) for name, model in models.items()
        }
        for _ in range(40):
            for talk in talks.values():
                talk.step()
        for name, talk in talks.items():
            print(
                f"{name}, {tokens} tokens: read in {talk.read_s:.2f} s, a token more takes "
                f"{statistics.median(talk.spent):.2f} ms of the processor, {talk.mib} MiB"
            )
        del talks, talk
        gc.collect()
    return 0


if __name__ == "__main__":
    sys.exit(main())
