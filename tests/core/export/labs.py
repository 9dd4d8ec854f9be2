"""Labs whose results are put there at once: a tiny model in place of the quantized one, and an adapter for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.files import write_json
from core.lab import Lab
from tests.tiny_models import make_tiny

MODULES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.o_proj", "mlp.down_proj")
FUSED = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj")


def lab_with(arch: str, root: Path, *, settings: dict[str, Any] | None = None, **options: Any) -> Lab:
    """A lab with a tiny float model where quantize would leave its own."""
    lab = Lab.create(root, settings=settings)
    make_tiny(arch, lab.folder.quantized_dir, **options)
    return lab


def add_adapter(lab: Lab, name: str = "travel", *, seed: int = 1, rank: int = 4, alpha: float = 6.0) -> Path:
    """A LoRA adapter of random numbers, as PEFT saves one."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = lab.folder.finetuned_dir(name)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = torch.Generator().manual_seed(seed)
    tensors = {}
    for key, weight in load_file(str(lab.folder.quantized_dir / "model.safetensors")).items():
        module = key.removesuffix(".weight")
        if module.endswith((*MODULES, *FUSED)):
            place = f"base_model.model.{module}"
            tensors[f"{place}.lora_A.weight"] = torch.randn(rank, weight.shape[1], generator=numbers) * 0.2
            tensors[f"{place}.lora_B.weight"] = torch.randn(weight.shape[0], rank, generator=numbers) * 0.2
    save_file(tensors, str(folder / "adapter_model.safetensors"))
    targets = sorted({key.split(".")[-3] for key in tensors})
    write_json(
        folder / "adapter_config.json",
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": rank,
            "lora_alpha": alpha,
            "target_modules": targets,
        },
    )
    return folder


def logits(model: Any) -> Any:
    """What a model says of a text, at each place."""
    import torch

    with torch.no_grad():
        return model(torch.arange(6, 60).unsqueeze(0)).logits.float()


def tuned_logits(lab: Lab, adapter: str | None = "travel") -> Any:
    """What the lab's model with an adapter says, by PEFT."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(lab.folder.quantized_dir, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(lab.folder.finetuned_dir(adapter)))
    return logits(model.eval())
