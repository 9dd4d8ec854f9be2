"""Predicted and measured: ``python -m benchmarks.estimates [FOLDER]``.

Runs the three stages on rehearsal-size models and prints, for each, the memory that `olivepress check`
predicts beside the peak that the stage's process reached. The rows of a GPU come from
``benchmarks.full_size``, whose ``--json`` file can be given with ``--measured``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from core import Lab
from core.check import subject_of
from core.check.machine import machine
from core.check.model import config_of, facts_of
from core.check.needs import StageNeed, stage_needs
from core.check.settings import record_lengths, resolved
from core.formats import human_bytes
from core.model.folder import config_facts

VARIANTS: dict[str, dict[str, Any]] = {
    "rehearsal, awq": {},
    "rehearsal, rtn, batch 32, rank 64": {
        "quantize.algorithm": "rtn",
        "finetune.batch_size": 32,
        "finetune.rank": 64,
    },
    "rehearsal, gptq, low memory": {"quantize.algorithm": "gptq", "finetune.memory": "low"},
}


def predict(lab: Lab) -> dict[str, StageNeed]:
    """What the check step predicts for a lab on this machine."""
    subject = subject_of(lab.root)
    config = config_of(subject)
    assert config is not None
    recipe = resolved(subject, facts_of(subject)).recipe
    return stage_needs(
        config_facts(config), recipe, machine(), record_lengths(subject, recipe.data.max_seq_len)
    )


def compare(name: str, needs: dict[str, StageNeed], peaks: dict[str, dict[str, int]]) -> list[str]:
    """A table row for each stage and kind of memory."""
    rows = []
    for stage, need in needs.items():
        for kind, predicted in (("RAM", need.ram), ("GPU", need.gpu)):
            measured = peaks.get(stage, {}).get("ram_bytes" if kind == "RAM" else "gpu_bytes")
            if not measured or not predicted:
                continue
            rows.append(
                f"| {name} | {stage} | {kind} | {human_bytes(predicted)} | {human_bytes(measured)} "
                f"| {predicted / measured:.2f} |"
            )
    return rows


def main() -> None:
    """Run the variants and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", type=Path, nargs="?", help="where to make the labs (default: a temporary folder)"
    )
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = options.folder or Path(temporary)
        print(
            "| lab | stage | memory | predicted | measured | ratio |\n| --- | --- | --- | --- | --- | --- |"
        )
        for number, (name, settings) in enumerate(VARIANTS.items()):
            lab = Lab.create(root / str(number), settings={"finetune.steps": options.steps, **settings})
            needs, peaks = predict(lab), {}
            for stage in ("quantize", "finetune", "optimize"):
                lab.run(stage)
                peaks[stage] = lab.job(stage).peaks
            print("\n".join(compare(name, needs, peaks)), flush=True)
            print(json.dumps(peaks), flush=True)


if __name__ == "__main__":
    main()
