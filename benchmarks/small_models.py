"""Small models to compare quantization on: the rehearsal model, and a Llama trained here in minutes.

The Llama (grouped-query attention, separate projections) learns from the Python standard library's own
documentation. Six channels of every norm start at 10, so that channels differ as they do in large
models, where AWQ has its effect. Seeded; made once and kept in the folder that is given.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import random
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "data")]
SEQUENCE = 128


@dataclass(frozen=True)
class Subject:
    """A model folder, and token rows that it knows the kind of: to calibrate on, and held out."""

    name: str
    path: Path
    calibration: list[list[int]]
    held_out: list[list[int]]

    def draw(self, rows: int, seed: int) -> tuple[list[list[int]], list[list[int]]]:
        """Calibration rows and held-out rows for one repetition."""
        numbers = random.Random(seed)
        return (
            numbers.sample(self.calibration, min(rows, len(self.calibration))),
            numbers.sample(self.held_out, min(64, len(self.held_out))),
        )


def rehearsal() -> Subject:
    """The bundled model, on the kind of text that it was trained on."""
    import rehearsal_text

    from core.model.load import load_tokenizer

    path = ROOT / "data/rehearsal_model"
    tokenizer = load_tokenizer(path)

    def ids(pair: tuple[str, str]) -> list[int]:
        text = "<|user|>\n{}<|end|>\n<|assistant|>\n{}<|end|>\n".format(*pair)
        return list(tokenizer(text)["input_ids"])

    parts: dict[bool, list[list[int]]] = {False: [], True: []}
    for pair in rehearsal_text.pairs():
        parts[rehearsal_text.held_out(pair)].append(ids(pair))
    return Subject("rehearsal (Phi-3)", path, parts[False], parts[True])


def documentation() -> list[str]:
    """Docstrings of the standard library's modules, in the order of their names."""
    texts = []
    skipped = {"antigravity", "this", "idlelib", "lib2to3", "test", "turtledemo", "tkinter", "msilib"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for info in sorted(pkgutil.iter_modules(), key=lambda each: each.name):
            if info.name not in sys.stdlib_module_names or info.name in skipped or info.name.startswith("_"):
                continue
            try:
                module = importlib.import_module(info.name)
            except (ImportError, OSError):
                continue
            found = [module, *(each for _, each in inspect.getmembers(module) if callable(each))]
            for each in found:
                text = inspect.getdoc(each)
                if text and len(text) > 80 and getattr(each, "__module__", info.name) == info.name:
                    texts.append(text + "\n")
    return texts


def trained_llama(folder: Path, steps: int = 300, seed: int = 0) -> Subject:
    """The Llama, trained if the folder does not hold it yet."""
    from core.model.load import load_tokenizer

    texts = documentation()
    if not (folder / "rows.json").is_file():
        _train(folder, texts, steps, seed)
    tokenizer = load_tokenizer(folder)
    assert tokenizer is not None
    rows = json.loads((folder / "rows.json").read_text())
    return Subject("documentation (Llama)", folder, rows["train"], rows["held_out"])


def _train(folder: Path, texts: list[str], steps: int, seed: int) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trained.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=2048,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained, eos_token="<|endoftext|>")
    numbers = random.Random(seed)
    numbers.shuffle(texts)
    stream = [token for text in texts for token in [*tokenizer(text)["input_ids"], 0]]
    rows = [stream[at : at + SEQUENCE] for at in range(0, len(stream) - SEQUENCE, SEQUENCE)]
    held_out, train = rows[: len(rows) // 20], rows[len(rows) // 20 :]
    config = LlamaConfig(
        vocab_size=2048, hidden_size=256, intermediate_size=640, num_hidden_layers=3, num_attention_heads=8,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter[torch.randperm(parameter.numel())[:6]] = 10.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.5e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, total_steps=steps, pct_start=0.1)
    started = time.monotonic()
    for step in range(steps):
        batch = torch.tensor(numbers.sample(train, 8))
        loss: Any = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.3f}, {time.monotonic() - started:.0f} s", file=sys.stderr)
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    (folder / "rows.json").write_text(json.dumps({"train": train, "held_out": held_out}))


if __name__ == "__main__":
    trained_llama(Path(sys.argv[1]))
