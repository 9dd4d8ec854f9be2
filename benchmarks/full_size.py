"""The whole lab at its real size: ``python -m benchmarks.full_size FOLDER``.

Makes a model of the shape of Phi-3.5-mini-instruct (3.8 B parameters, random weights, bf16, its
long-context rope) with the rehearsal model's tokenizer, and records of at least 1024 tokens from the
bundled travel answers; then runs the real ``olivepress run`` and ``olivepress chat`` on them and prints
a table. Random weights: time and memory are real, answers and losses mean nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from core import Lab
from core.events import read_events
from core.formats import human_bytes
from core.resources import rehearsal_model, sample_data
from core.stage_context import versions

SHAPE = {
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32064,
    "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
}


def make_model(folder: Path, layers: int, hidden: int, device: str) -> None:
    """A Phi-3.5-mini-shaped checkpoint of random bf16 weights in ``folder``."""
    import torch
    from transformers import Phi3Config, Phi3ForCausalLM

    small = json.loads((rehearsal_model() / "config.json").read_text())
    ids = {key: small.get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    shape = {**SHAPE, "num_hidden_layers": layers}
    if hidden != SHAPE["hidden_size"]:
        shape |= {"hidden_size": hidden, "intermediate_size": hidden * 8 // 3 // 128 * 128}
    half = shape["hidden_size"] // shape["num_attention_heads"] // 2
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 4096,
        "short_factor": [1.0 + 0.02 * i for i in range(half)],
        "long_factor": [1.0 + 1.3 * i for i in range(half)],
    }
    config = Phi3Config(
        **shape, **ids, rope_parameters=rope, sliding_window=262144, tie_word_embeddings=False
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = Phi3ForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder, max_shard_size="2GB")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copyfile(rehearsal_model() / name, folder / name)


def make_records(path: Path, tokens: int, rows: int) -> None:
    """Records whose answers are travel answers joined until they pass ``tokens`` tokens."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(rehearsal_model() / "tokenizer.json"))
    source = [json.loads(line) for line in sample_data().read_text(encoding="utf-8").splitlines()]
    at, lines = 0, []
    for number in range(rows):
        answer: list[str] = []
        count = 0
        while count <= tokens:
            row = source[at % len(source)]
            answer.append(row["response"])
            count += len(tokenizer.encode(row["response"]).ids)
            at += 1
        prompt = f"Tell me of {len(answer)} places, list {number}."
        lines.append(json.dumps({"prompt": prompt, "response": " ".join(answer)}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def run_lab(lab: Lab, stages: list[str], extra: list[str]) -> list[dict[str, Any]]:
    """Run stages by one command, as a person does; a row of figures for each, and one for the command."""
    began = time.monotonic()
    words = ["run", str(lab.root), *stages, "--force", *extra]
    done = subprocess.run([sys.executable, "-m", "core.cli", *words], check=False)
    whole = {
        "stage": "all",
        "exit": done.returncode,
        "wall_s": round(time.monotonic() - began, 1),
        "result": None,
    }
    rows = []
    for stage in stages:
        job = lab.newest(stage)
        if job is None:
            continue
        events, _ = read_events(job.events_path)
        gpu = [e["value"] for e in events if e["type"] == "metric" and e["name"] == "gpu_mem_gib"]
        first, last = (datetime.fromisoformat(str(events[at]["t"])) for at in (0, -1))
        rows.append(
            {
                "stage": stage,
                "exit": 0 if job.state == "succeeded" else 1,
                "wall_s": round((last - first).total_seconds(), 1),
                "work_s": job.seconds,
                **job.peaks,
                "gpu_seen_gib": max(gpu, default=None),
                "result": job.result or job.status().error,
            }
        )
    return [*rows, whole]


def main() -> None:
    """Make, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=SHAPE["num_hidden_layers"])
    parser.add_argument("--hidden", type=int, default=SHAPE["hidden_size"])
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=240)
    parser.add_argument("--stages", nargs="*", default=["quantize", "finetune", "optimize"])
    parser.add_argument("--set", action="append", default=[], help="recipe values")
    parser.add_argument("--no-chat", action="store_true")
    parser.add_argument("--no-check", action="store_true")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--only-model", action="store_true", help="make the model in FOLDER and nothing else")
    options = parser.parse_args()
    if options.only_model:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        make_model(options.folder, options.layers, options.hidden, device)
        return
    from core.cli.parser import parse_settings

    options.folder.mkdir(parents=True, exist_ok=True)
    model, data = options.folder / "model", options.folder / "long.jsonl"
    if not (model / "config.json").exists():
        began = time.monotonic()
        # In a process of its own, so that nothing stays on the GPU.
        subprocess.run(
            [
                *(sys.executable, "-m", "benchmarks.full_size", str(model), "--only-model"),
                *("--layers", str(options.layers), "--hidden", str(options.hidden)),
            ],
            check=True,
        )
        print(f"made the model in {time.monotonic() - began:.0f} s", flush=True)
    make_records(data, options.tokens, options.rows)
    root = options.folder / "lab"
    if (root / "lab.toml").exists():
        lab = Lab.open(root)
        lab.set(parse_settings(options.set))
    else:
        lab = Lab.create(
            root, model=str(model.resolve()), data=str(data.resolve()), settings=parse_settings(options.set)
        )
    rows = run_lab(lab, options.stages, ["--no-check"] if options.no_check else [])
    if not options.no_chat:
        chat = [
            sys.executable,
            "-m",
            "core.cli",
            "chat",
            str(root),
            "--compare",
            "--json",
            "--prompt",
            "Hello",
        ]
        done = subprocess.run(chat, capture_output=True, text=True, check=False)
        rows.append(
            {"stage": "chat", "exit": done.returncode, "result": done.stdout[-2000:] or done.stderr[-2000:]}
        )
    machine = {
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "versions": versions("torch", "transformers", "olive-ai", "peft", "onnxruntime", "onnxruntime-genai"),
        "layers": options.layers,
    }
    print(json.dumps(machine))
    print("| stage | exit | wall s | work s | peak RAM | peak GPU |\n| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        ram, gpu = (human_bytes(row[k]) if row.get(k) else "-" for k in ("ram_bytes", "gpu_bytes"))
        print(
            f"| {row['stage']} | {row['exit']} | {row.get('wall_s', '-')} | {row.get('work_s', '-')} | {ram} | {gpu} |"
        )
    for row in rows:
        print(row["stage"], json.dumps(row["result"])[:1500])
    if options.json:
        options.json.write_text(json.dumps({**machine, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
