"""Labs whose every file may be hostile: foreign text, nonsense, bytes. All by one source of chance."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.lab import Lab
from tests.tui.nasty import NASTY

SHORT = tuple(each[:200] for each in NASTY if each)
"""Hostile text that may stand in a line."""

NAMES = (
    "[@click=app.quit]x[/]",
    "a\x1b[31mred",
    "\u202etxt",
    "line\nbreak",
    "..",
    "-rf",
    "a b'\"$(x)",
    "x" * 200,
    "\udcff\udcfe",
    "%s{prompt}",
)
"""Hostile names of files, and words of a command line."""

_DEEP = "[" * 50_000
_NONSENSE = (
    _DEEP,
    "",
    "{",
    "{}",
    "[]",
    "7",
    "null",
    '"x"',
    "\0\0",
    '{"a": 1e999}',
    "NaN",
    "\ufeff{}",
    "9" * 5000,
)
_RECIPE = {
    "model": ("source", "trust_remote_code"),
    "data": ("file", "template", "prompt_field", "response_field", "eval_fraction", "max_seq_len"),
    "quantize": ("algorithm", "bits", "group_size"),
    "finetune": ("adapter", "rank", "steps", "learning_rate"),
    "optimize": ("device", "provider", "precision"),
    "chat": ("system", "temperature"),
    "upload": ("name", "workspace", "tags", "nonsense"),
}
_EVENTS: tuple[Callable[[random.Random], dict[str, Any]], ...] = (
    lambda chance: {"type": "state", "state": chance.choice(["running", "failed", text(chance)])},
    lambda chance: {
        "type": "progress",
        "phase": text(chance),
        "done": number(chance),
        "total": number(chance),
    },
    lambda chance: {
        "type": "metric",
        "name": chance.choice(["loss", text(chance)]),
        "step": number(chance),
        "value": 1,
    },
    lambda chance: {"type": "log", "level": text(chance), "text": text(chance)},
    lambda chance: {"type": "artifact", "path": text(chance), "what": text(chance), "bytes": number(chance)},
)


def text(chance: random.Random) -> str:
    """Some hostile text."""
    return chance.choice(SHORT)


def number(chance: random.Random) -> Any:
    """What stands where a number is meant."""
    return chance.choice([0, -1, 3, 1e308, 10**30, None, True, "7", [], {}])


def value(chance: random.Random) -> Any:
    """Any JSON value."""
    inner = chance.choice([text, number])(chance)
    return chance.choice([inner, [inner], {text(chance): [inner]}])


def hostile_lab(root: Path, chance: random.Random) -> Path:
    """A lab in which one or several kinds of files are hostile; the others are as they should be."""
    lab = Lab.create(root, settings={"chat.system": "ok"})
    write_records(root / "records.jsonl", chance)
    lab.set({"data.file": "records.jsonl"})
    for harm in (_recipe, _jobs, _models, _chats, _state):
        if chance.random() < 0.5:
            harm(root, chance)
    return root


def write_records(path: Path, chance: random.Random) -> None:
    """Records, some of them hostile."""
    rows: list[Any] = [{"prompt": f"Where is {number}?", "response": "Here."} for number in range(5)]
    for _ in range(chance.randrange(8)):
        field = chance.choice(["prompt", "response", "messages", text(chance)])
        rows.insert(chance.randrange(len(rows)), {"prompt": "Q?", "response": "A.", field: value(chance)})
    lines = [json.dumps(row) for row in rows]
    if chance.random() < 0.3:
        lines.insert(chance.randrange(len(lines)), chance.choice([*_NONSENSE, *SHORT]))
    path.write_bytes(
        "\n".join(lines).encode("utf-8", "surrogatepass") + chance.choice([b"\n", b"", b"\xff\xfe", b"\0"])
    )


def _recipe(root: Path, chance: random.Random) -> None:
    path = root / "lab.toml"
    kind = chance.randrange(4)
    if kind == 0:
        data = bytearray(path.read_bytes())
        for _ in range(chance.randrange(1, 5)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(bytes(data[: chance.randrange(1, len(data))] if chance.random() < 0.3 else data))
    elif kind == 1:
        path.write_bytes(chance.choice([b"", b"\xff", b"=" * 1000, b"[" * 50_000, text(chance).encode()]))
    else:
        lines = []
        for table, keys in _RECIPE.items():
            lines.append(f"[{table}]")
            odd = (chance.choice([text, number]) for _ in keys)
            lines += [
                f"{key} = {json.dumps(make(chance) or 0)}"
                for key, make in zip(keys, odd, strict=True)
                if chance.random() < 0.3
            ]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogatepass")


def _nonsense(path: Path, chance: random.Random) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = chance.randrange(4)
    if kind == 0:
        path.write_bytes(bytes(chance.randrange(256) for _ in range(chance.randrange(40))))
    elif kind == 1:
        path.write_text(chance.choice(_NONSENSE), encoding="utf-8")
    else:
        path.write_text(json.dumps({chance.choice(KEYS): value(chance) for _ in range(6)}), encoding="utf-8")


KEYS = (
    "state", "error", "result", "fingerprint", "files", "model", "v", "stage", "recipe", "role", "content", "search",
    "model_type", "hidden_size", "vocab_size", "peft_type", "r", "train", "rows", "id", "auto", "ended",
)  # fmt: skip


def _jobs(root: Path, chance: random.Random) -> None:
    for stage in ("quantize", "finetune", chance.choice(NAMES).replace("/", "")):
        folder = root / "jobs" / f"{stage}-{chance.choice(['001', '002', '1000'])}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError):
            continue
        for name in ("done.json", "outcome.json", "spec.json", "pid.json", "stop.json"):
            if chance.random() < 0.4:
                _nonsense(folder / name, chance)
        lines = [json.dumps({"v": 1, "t": text(chance), **chance.choice(_EVENTS)(chance)}) for _ in range(10)]
        (folder / "events.jsonl").write_text(
            "\n".join([*lines, chance.choice(_NONSENSE), ""]), encoding="utf-8"
        )
        (folder / "log.txt").write_text("\n".join(NASTY), encoding="utf-8", errors="surrogatepass")
        failed = {
            "state": "failed",
            "error": dict.fromkeys(("title", "detail", "hint", "code"), text(chance)),
        }
        if chance.random() < 0.5:
            (folder / "done.json").write_text(json.dumps(failed), encoding="utf-8")


def _models(root: Path, chance: random.Random) -> None:
    models = root / "models"
    for name in (
        "quantized/config.json",
        "quantized/olivepress.json",
        "quantized/model.safetensors",
        "quantized/tokenizer.json",
        "finetuned/travel/adapter_config.json",
        "finetuned/travel/adapter_model.safetensors",
        "finetuned/travel/olivepress.json",
        "onnx/genai_config.json",
        "onnx/olivepress.json",
        "onnx/tokenizer_config.json",
        "onnx/model.onnx",
    ):
        if chance.random() < 0.6:
            _nonsense(models / name, chance)
    adapters = models / "onnx/adapters"
    adapters.mkdir(parents=True, exist_ok=True)
    (adapters / f"{chance.choice(NAMES).replace('/', '')}.onnx_adapter").write_bytes(b"x")


def _chats(root: Path, chance: random.Random) -> None:
    for name in ("2026-11-20-100000", chance.choice(NAMES)):
        _nonsense(root / "chats" / f"{name}.jsonl", chance)


def _state(root: Path, chance: random.Random) -> None:
    for name in ("records.json", "data_split.json", "upload.json", "wizard.json"):
        if chance.random() < 0.6:
            _nonsense(root / ".olivepress" / name, chance)
    if chance.random() < 0.3:
        os.symlink("/etc/passwd", root / "report.md")
