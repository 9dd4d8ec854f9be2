"""AWQ by llm-compressor, for comparison: run with the Python of an environment that has it.

    PYTHON llm_compressor_awq.py MODEL ROWS.json GROUP OUT.safetensors

Its pins differ from OlivePress's, so it has an environment of its own and knows nothing of this tree.
Writes the model's weights as llm-compressor would store them (folded, rounded, dequantized) in float32,
and prints the seconds that it took.
"""

from __future__ import annotations

import json
import sys
import time

import torch
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM


def main(path: str, rows_file: str, group: int, out: str) -> None:
    """Quantize and write."""
    if not torch.cuda.is_available():
        # Its cache pins memory whatever the machine, which fails without an accelerator.
        torch.Tensor.pin_memory = lambda self, *_: self
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with open(rows_file) as stream:
        rows = json.load(stream)["input_ids"]
    dataset = Dataset.from_list([{"input_ids": row, "attention_mask": [1] * len(row)} for row in rows])
    weights = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": group}
    recipe = [
        AWQModifier(),
        QuantizationModifier(
            ignore=["lm_head"], config_groups={"all": {"targets": ["Linear"], "weights": weights}}
        ),
    ]
    started = time.monotonic()
    oneshot(
        model=model,
        dataset=dataset,
        recipe=recipe,
        max_seq_length=512,
        num_calibration_samples=len(rows),
        shuffle_calibration_samples=False,
    )
    seconds = time.monotonic() - started
    with torch.no_grad():
        for module in model.modules():
            scheme = getattr(module, "quantization_scheme", None)
            if scheme is not None and scheme.weights is not None:
                zero = getattr(module, "weight_zero_point", None)
                module.weight.data = fake_quantize(module.weight, module.weight_scale, zero, scheme.weights)
    kept = ("weight_scale", "weight_zero_point", "g_idx", "input_scale", "weight_global_scale")
    state = {name: value.float() for name, value in model.state_dict().items() if not name.endswith(kept)}
    save_file({name: value.contiguous().clone() for name, value in state.items()}, out)
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
