"""Intel's AutoRound, for comparison: run with the Python of an environment that has it.

    PYTHON auto_round_weights.py MODEL ROWS.json GROUP OUT [STEPS [BATCH]]

Its pins differ from OlivePress's, so it has an environment of its own and knows nothing of this tree. ROWS.json is
a list of rows of as many tokens each. Writes the model as AutoRound would have it compute (rounded and multiplied out
again) into the folder OUT, and prints the seconds that it took.
"""

from __future__ import annotations

import json
import sys
import time

import torch
from auto_round import AutoRound
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(path: str, rows_file: str, group: int, out: str, steps: int = 200, batch: int = 8) -> None:
    """Quantize and write."""
    with open(rows_file) as stream:
        rows = json.load(stream)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(path)
    data = [{"input_ids": torch.tensor([row]), "attention_mask": torch.ones(1, len(row))} for row in rows]
    rounding = AutoRound(
        model,
        tokenizer,
        bits=4,
        group_size=group,
        sym=False,
        iters=steps,
        batch_size=batch,
        nsamples=len(rows),
        seqlen=len(rows[0]),
        dataset=data,
    )
    started = time.monotonic()
    rounding.quantize_and_save(out, format="fake")
    print(json.dumps({"seconds": time.monotonic() - started}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], *map(int, sys.argv[5:]))
