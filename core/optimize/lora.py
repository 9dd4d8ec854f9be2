"""Reading a PEFT LoRA adapter, and laying its matrices out for a graph's branches."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import RequestError, StageError
from core.files import read_json
from core.folder import lab_command
from core.model.inside import refuse_links
from core.optimize.layout import Layout

if TYPE_CHECKING:
    import torch

_KEY = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.[^.]+)?\.weight")


@dataclass(frozen=True)
class Pair:
    """A layer's matrices: A [rank, in], B [out, rank], float32, and the scale of their product."""

    a: torch.Tensor
    b: torch.Tensor
    scale: float


@dataclass(frozen=True)
class Lora:
    """An adapter: its configured rank and alpha, and a pair for each layer it was trained on."""

    rank: int
    alpha: float
    pairs: dict[str, Pair]


def read_lora(folder: Path) -> Lora:
    """Read ``adapter_config.json`` and ``adapter_model.safetensors`` of a PEFT folder.

    Raises:
        RequestError: there is no adapter there, or it is of a kind that a graph input cannot carry, or a link
            in its folder leads out of it.
    """
    from safetensors.torch import load_file

    config = read_json(folder / "adapter_config.json")
    weights = folder / "adapter_model.safetensors"
    if not isinstance(config, dict) or not weights.is_file():
        raise RequestError(
            "There is no adapter to optimize.",
            f"{folder} has no adapter_config.json with adapter_model.safetensors.",
            "Make one with: " + lab_command(folder, "run", "finetune"),
        )
    refuse_links(folder)
    _refuse_other_kinds(folder, config)
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(str(weights)).items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise RequestError(
                "The adapter holds weights that are not LoRA matrices.",
                f"{weights}: {key}.",
                "Only LoRA on linear layers can become inputs of the ONNX graph.",
            )
        found.setdefault(match[1], {})[match[2]] = tensor.float()
    pairs = {}
    for module, matrices in found.items():
        if set(matrices) != {"A", "B"} or matrices["A"].shape[0] != matrices["B"].shape[1]:
            raise RequestError("The adapter is damaged.", f"{weights}: A and B of {module} do not fit.")
        pairs[module] = Pair(matrices["A"], matrices["B"], scale_of(config, module))
    if not pairs:
        raise RequestError("The adapter is empty.", str(weights), "Run finetune again.")
    return Lora(int(config["r"]), float(config["lora_alpha"]), pairs)


def _refuse_other_kinds(folder: Path, config: dict[str, Any]) -> None:
    reasons = {
        f"peft_type is {config.get('peft_type')}": config.get("peft_type") != "LORA",
        "it uses DoRA": bool(config.get("use_dora")),
        "it has biases": config.get("bias", "none") != "none" or bool(config.get("lora_bias")),
        "it replaces whole modules (modules_to_save)": bool(config.get("modules_to_save")),
        "it is for transposed layers (fan_in_fan_out)": bool(config.get("fan_in_fan_out")),
    }
    wrong = [reason for reason, holds in reasons.items() if holds]
    if wrong:
        raise RequestError(
            "This kind of adapter cannot be an input of the ONNX graph.",
            f"{folder}: {', '.join(wrong)}.",
            "Train a plain LoRA adapter on linear layers.",
        )


def scale_of(config: dict[str, Any], module: str) -> float:
    """Alpha / rank of a layer, as PEFT takes it from ``adapter_config.json`` (patterns, rsLoRA)."""

    def chosen(patterns: str, default: str) -> float:
        for pattern, value in (config.get(patterns) or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                return float(value)
        return float(config[default])

    rank, alpha = chosen("rank_pattern", "r"), chosen("alpha_pattern", "lora_alpha")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def arrange(lora: Lora, layout: Layout) -> dict[str, torch.Tensor]:
    """The tensor of each graph input that the adapter gives, float32.

    Where several layers share a branch, their As stand side by side and their scaled Bs in blocks,
    so that the product is exactly each layer's own. Branches of which no layer was trained are left
    out: the graph's own rank 0 stands for them.

    Raises:
        StageError: a trained layer has no branch, or another size.
    """
    import torch

    at = {part.module: (branch, part) for branch in layout.branches for part in branch.parts}
    for module, pair in lora.pairs.items():
        if module not in at:
            raise StageError(
                "A layer that the adapter was trained on is not in the ONNX graph.",
                f"{module} has no place for adapters; there is one for {', '.join(sorted(_kinds(at)))}.",
                "Train the adapter on these layers only.",
            )
        branch, part = at[module]
        if (pair.a.shape[1], pair.b.shape[0]) != (branch.size, part.size):
            raise StageError(
                "The adapter is for a model of another size.",
                f"{module}: the adapter has {pair.a.shape[1]} inputs and {pair.b.shape[0]} outputs, "
                f"the model {branch.size} and {part.size}.",
                "Run finetune again on this lab's quantized model.",
            )
    inputs: dict[str, torch.Tensor] = {}
    for branch in layout.branches:
        parts = [(part, lora.pairs[part.module]) for part in branch.parts if part.module in lora.pairs]
        if not parts:
            continue
        rank = sum(pair.a.shape[0] for _, pair in parts)
        b = torch.zeros(rank, sum(output.size for output in branch.outputs))
        row = 0
        for part, pair in parts:
            r = pair.a.shape[0]
            b[row : row + r, part.start : part.start + part.size] = pair.b.T * pair.scale
            row += r
        inputs[branch.a] = torch.cat([pair.a.T for _, pair in parts], dim=1).contiguous()
        column = 0
        for output in branch.outputs:
            inputs[output.name] = b[:, column : column + output.size].contiguous()
            column += output.size
    return inputs


def _kinds(modules: dict[str, Any]) -> set[str]:
    return {module.rsplit(".", 1)[-1] for module in modules}
