"""What a model learns from the bundled questions in each language: the table of data/README.md.

    python -m benchmarks.sample_languages FOLDER --model MODEL [--languages de,fa] [--at-once 1] [--set KEY=VALUE]

A lab in each language, with no setting but the model, through quantize and finetune; FOLDER keeps the labs. Shown:
the loss on held-out records before and after, in nats a token of the answer. Tokens are not equally long in two
languages, so a row is compared with itself.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from core.lab import Lab
from core.language import LANGUAGES

ROOT = Path(__file__).resolve().parent.parent

ENVIRONMENT = os.environ | {
    "OLIVE_DISABLE_TELEMETRY": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
}


def olivepress(*words: str) -> None:
    """A command, which must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "core.cli", *words],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(
            f"olivepress {' '.join(words)}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )


def line(folder: Path, model: str, code: str, settings: list[str]) -> str:
    """One language's row of the table."""
    lab = folder / code
    if not (lab / "lab.toml").exists():
        values = [word for setting in settings for word in ("--set", setting)]
        olivepress("new", str(lab), "--model", model, "--language", code, *values)
    olivepress("run", str(lab), "quantize", "finetune", "--no-check")
    job = Lab.open(lab).newest("finetune")
    result = job.result if job is not None else None
    if result is None:
        raise SystemExit(f"{lab}: no result of finetune")
    base, tuned, steps = (result[key] for key in ("eval_loss_base", "eval_loss_tuned", "steps"))
    return f"| {LANGUAGES[code]} | {steps} | {base:.2f} | {tuned:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--languages", default=",".join(LANGUAGES))
    parser.add_argument(
        "--at-once", type=int, default=1, help="labs beside each other, on a GPU with room for them"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    codes = options.languages.split(",")
    print("| rows in | steps | held-out loss before | after |\n| --- | --- | --- | --- |", flush=True)
    with ThreadPoolExecutor(options.at_once) as pool:
        for row in pool.map(lambda code: line(options.folder, options.model, code, options.set), codes):
            print(row, flush=True)


if __name__ == "__main__":
    main()
