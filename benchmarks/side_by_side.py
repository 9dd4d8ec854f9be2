"""What this program does beside the shortest way to the same: python -m benchmarks.side_by_side FOLDER [--steps 30].

FOLDER is a Hugging Face folder of a float model. Two things are measured, each way in a process of its own, in turns:

* training: the same LoRA (rank, scale, rows, rate) on the same float weights by PEFT and transformers' Trainer, and by
  the finetune stage; seconds a step, and the loss on the same held-out rows. On a CPU both also in float32;
* jobs: a stage as ``olivepress run`` runs it, with its own process, lock, log, fingerprint and verification, against
  the bare Olive pass in a process of its own.

With ``--llama MODEL.gguf --onnx FOLDER`` also chat: tokens a second of llama.cpp (package xllamacpp, where ``python
benchmarks/exports.py LAB --fetch`` puts it) and of onnxruntime-genai as the chat uses it, on one core each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RANK, ALPHA, BATCH, RATE = 16, 32, 8, 2e-4

PLAIN = """
import json, sys, time
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

told = json.load(open(sys.argv[1]))
gpu = torch.cuda.is_available()
half = gpu or told["half"]
model = AutoModelForCausalLM.from_pretrained(told["model"], dtype=torch.bfloat16 if half else torch.float32)
model = get_peft_model(model, LoraConfig(r=told["rank"], lora_alpha=told["alpha"], target_modules="all-linear"))

def collate(rows):
    longest = max(len(ids) for ids, _ in rows)
    pad = lambda values, fill: values + [fill] * (longest - len(values))
    return {
        "input_ids": torch.tensor([pad(ids, 0) for ids, _ in rows]),
        "attention_mask": torch.tensor([pad([1] * len(ids), 0) for ids, _ in rows]),
        "labels": torch.tensor([pad([i if t else -100 for i, t in zip(ids, trained)], -100) for ids, trained in rows]),
    }

times = []
class Clock(TrainerCallback):
    def on_step_end(self, *_, **__):
        if gpu: torch.cuda.synchronize()
        times.append(time.perf_counter())

settings = TrainingArguments(
    told["work"], per_device_train_batch_size=told["batch"], max_steps=told["steps"], learning_rate=told["rate"],
    lr_scheduler_type="cosine", warmup_steps=0.05, report_to=[], save_strategy="no", logging_strategy="no",
    remove_unused_columns=False, per_device_eval_batch_size=told["batch"], seed=0, bf16=half, use_cpu=not gpu,
    disable_tqdm=True,
)
trainer = Trainer(model, settings, train_dataset=told["train"], eval_dataset=told["held_out"], data_collator=collate,
                  callbacks=[Clock()])
trainer.train()
loss = trainer.evaluate()["eval_loss"]
steps = [b - a for a, b in zip(times, times[1:])]
print(json.dumps({"step_s": sorted(steps)[len(steps) // 2], "loss": loss}))
"""

BARE = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from benchmarks.real_quality import quantized
import json
from core.olive.run import import_olive
import_olive()
print(json.dumps({"pass_s": quantized(Path(sys.argv[1]), "rtn", int(sys.argv[2]), [], Path(sys.argv[3]))[1]}))
"""

LLAMA = """
import json, sys
import xllamacpp
settings = xllamacpp.CommonParams()
settings.model.path, settings.n_ctx, settings.n_parallel = sys.argv[1], 1024, 1
settings.cpuparams.n_threads = 1
server = xllamacpp.Server(settings)
for number in range(int(sys.argv[2])):
    ask = {"messages": [{"role": "user", "content": f"{number}. What should I see in Rome in a week?"}],
           "temperature": 0, "max_tokens": 96}
    told = server.handle_chat_completions(ask)
    told = told if isinstance(told, dict) else json.loads(told)
    print(json.dumps(told["timings"]["predicted_per_second"]))
"""


def last_line(words: list[str], **more: Any) -> Any:
    """What a process prints last, as JSON."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, **more)
    if done.returncode:
        raise SystemExit(f"{' '.join(words[:4])} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def training(model: Path, steps: int, rounds: int, work: Path) -> None:
    """The same LoRA both ways, in turns."""
    import torch

    from core import Lab
    from core.data import load_examples
    from core.events import Reporter
    from core.finetune.rows import tokenize
    from core.model.text import read_text
    from core.model.tokenizer import ModelTokenizer
    from core.stage_context import resolve_at_hand
    from core.stages import STAGES

    lab = Lab.create(
        work / "lab",
        model=str(model),
        settings={
            "quantize.algorithm": "none",
            **{f"finetune.{key}": value for key, value in (
                ("rank", RANK), ("alpha", ALPHA), ("batch_size", BATCH), ("learning_rate", RATE), ("steps", steps),
                ("turns", 1), ("dropout", 0.0), ("eval_every", 0),
            )},
        },
    )  # fmt: skip
    lab.run("quantize")
    recipe = resolve_at_hand(STAGES["finetune"], lab.folder, lab.recipe, Reporter())[0].recipe
    text = read_text(model)
    split = load_examples(recipe, lab.root, text=text)
    tokenizer = ModelTokenizer.read(model, text.ends)
    rows = {
        name: [(row.ids, row.trained) for row in tokenize(part, tokenizer, max_len=1024).rows]
        for name, part in (("train", split.train), ("held_out", split.eval))
    }
    told = {"model": str(model), "work": str(work / "trainer"), "rank": RANK, "alpha": ALPHA, "batch": BATCH}
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for half in (True, False) if not torch.cuda.is_available() else (True,):
            (work / "told.json").write_text(
                json.dumps({**told, "rate": RATE, "steps": steps, "half": half, **rows})
            )
            plain = last_line([sys.executable, "-c", PLAIN, str(work / "told.json")])
            kind = "bfloat16" if half else "float32"
            found.setdefault(f"PEFT and Trainer, {kind}", []).append((plain["step_s"], plain["loss"]))
            if half:
                os.environ.pop("OLIVEPRESS_FLOAT32", None)
            else:
                os.environ["OLIVEPRESS_FLOAT32"] = "1"
            ours = lab.run("finetune", force=True).numbers
            found.setdefault(f"olivepress, {kind}", []).append(
                (ours["seconds_per_step"], ours["eval_loss_tuned"])
            )
            print(found, file=sys.stderr, flush=True)
    print(f"\nLoRA of rank {RANK}, {steps} steps of {BATCH} rows, {rounds} rounds\n")
    print("| | seconds a step | held-out loss |\n|---|---|---|")
    for name, each in found.items():
        seconds, losses = (statistics.median(values) for values in zip(*each, strict=True))
        print(f"| {name} | {seconds:.3f} | {losses:.4f} |", flush=True)


def jobs(model: Path, rounds: int, work: Path) -> None:
    """A stage through a job, and the bare pass."""
    from core import Lab

    lab = Lab.create(work / "jobs", model=str(model), settings={"quantize.algorithm": "rtn"})
    group = lab.run("quantize").numbers["group_size"]
    bare, through = [], []
    for number in range(rounds):
        began = time.monotonic()
        last_line(
            [sys.executable, "-c", BARE, str(model), str(group), str(work / f"bare-{number}"), str(ROOT)]
        )
        bare.append(time.monotonic() - began)
        began = time.monotonic()
        lab.run("quantize", force=True)
        through.append(time.monotonic() - began)
    print(f"\nRounding to nearest, {rounds} rounds\n\n| | seconds |\n|---|---|")
    print(f"| the bare Olive pass in a process | {statistics.median(bare):.1f} |")
    print(
        f"| `olivepress run quantize`, verified and published | {statistics.median(through):.1f} |",
        flush=True,
    )


def chat(gguf: Path, onnx: Path, rounds: int) -> None:
    """Decoding by llama.cpp and by the runtime that the chat uses, in turns."""
    ours = [
        sys.executable,
        str(ROOT / "benchmarks/chat.py"),
        str(onnx),
        "--rounds",
        "1",
        "--tokens",
        "96",
        "--json",
    ]
    one = ["taskset", "-c", "0"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    packages = {**os.environ, "PYTHONPATH": str(ROOT / ".cache/others/llama")}
    theirs, own = [], []
    for _ in range(rounds):
        theirs.append(last_line([*one, sys.executable, "-c", LLAMA, str(gguf), "2"], env=packages))
        own.append(last_line([*one, *ours], env=env)["ours_tokens_per_s"])
    print(f"\nDecoding, one core, {rounds} rounds\n\n| | tokens a second |\n|---|---|")
    print(
        f"| llama.cpp | {statistics.median(theirs):.1f} |\n| olivepress chat | {statistics.median(own):.1f} |"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("training", "jobs", "chat"))
    parser.add_argument("--llama", type=Path, metavar="GGUF")
    parser.add_argument("--onnx", type=Path)
    options = parser.parse_args()
    model = options.model.resolve()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if options.only in (None, "training"):
            training(model, options.steps, options.rounds, work)
        if options.only in (None, "jobs"):
            jobs(model, options.rounds, work)
    if options.llama and options.onnx and options.only in (None, "chat"):
        chat(options.llama, options.onnx, options.rounds)


if __name__ == "__main__":
    main()
