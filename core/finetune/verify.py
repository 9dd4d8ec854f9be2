"""Proof that a saved adapter is one: it fits its base, it is finite, it changed, and it changes answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from core.errors import StageError, Use
from core.language import told

if TYPE_CHECKING:
    from peft import PeftModel

WEIGHTS = "adapter_model.safetensors"
AGAIN = told("Run finetune again; if this comes back, it is a fault of OlivePress.")


@dataclass(frozen=True)
class Checked:
    """What was found: matrices, their numbers, and how far the logits moved at most."""

    matrices: int
    numbers: int
    logit_change: float


def check_tensors(peft_model: PeftModel, folder: Path) -> tuple[int, int]:
    """Compare the saved tensors with what the base takes; (matrices, numbers).

    Raises:
        StageError: a tensor is missing, of another shape, not finite, or the training changed nothing.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    saved = load_file(folder / WEIGHTS)
    wanted = get_peft_model_state_dict(peft_model, save_embedding_layers=False)
    if odd := sorted(set(saved) ^ set(wanted)):
        raise StageError(
            told("The adapter does not fit the base."),
            told("{odd} and {count} others.", odd=odd[0], count=len(odd) - 1),
            AGAIN,
            code="finetune.verify",
        )
    for name, tensor in saved.items():
        if tensor.shape != wanted[name].shape:
            found = told(
                "{name} is {tuple}, the base takes {tuple2}.",
                name=name,
                tuple=tuple(tensor.shape),
                tuple2=tuple(wanted[name].shape),
            )
            raise StageError(told("The adapter does not fit the base."), found, AGAIN, code="finetune.verify")
        if not bool(torch.isfinite(tensor).all()):
            raise StageError(
                told("The adapter has numbers that are not finite."),
                name,
                told("Lower {setting}.", setting=Use("finetune.learning_rate")),
                code="finetune.verify",
            )
    if not any(bool(tensor.any()) for name, tensor in saved.items() if "lora_B" in name):
        raise StageError(
            told("The training changed nothing."),
            told("Every B matrix of the adapter is still zero."),
            told(
                "Raise {setting} or {setting2}.",
                setting=Use("finetune.steps"),
                setting2=Use("finetune.learning_rate"),
            ),
            code="finetune.verify",
        )
    return len(saved), sum(tensor.numel() for tensor in saved.values())


@torch.no_grad()
def check_adapter(peft_model: PeftModel, folder: Path, prompt: list[int]) -> Checked:
    """Check the adapter saved in ``folder`` against the model that it was saved from.

    The adapter in memory is taken off and the one in the folder put on the bare base: its logits for
    ``prompt`` must be those of the model in memory and other than the base's.

    Raises:
        StageError: they are not, or as :func:`check_tensors`.
    """
    from core.finetune.lora_layer import load_lora

    matrices, numbers = check_tensors(peft_model, folder)
    peft_model.eval()
    ids = torch.tensor([prompt], device=next(peft_model.parameters()).device)
    in_memory = peft_model(input_ids=ids, use_cache=False).logits.float()
    base_model = peft_model.unload()
    base = base_model(input_ids=ids, use_cache=False).logits.float()
    reloaded_model = load_lora(base_model, str(folder))
    reloaded = reloaded_model(input_ids=ids, use_cache=False).logits.float()

    if not bool(torch.isfinite(reloaded).all()):
        raise StageError(
            told("The tuned model gives no numbers."),
            told("Its logits are not finite."),
            AGAIN,
            code="finetune.verify",
        )
    change = float((reloaded - base).abs().max())
    if change == 0:
        raise StageError(
            told("The adapter changes no answer."),
            told("The logits are the base's to the last bit."),
            AGAIN,
            code="finetune.verify",
        )
    apart = float((reloaded - in_memory).abs().max())
    if apart > 0.02 * max(1.0, float(in_memory.std())):
        raise StageError(
            told("The saved adapter is not the one that was trained."),
            told("Reloaded, its logits are {apart:.3g} off.", apart=apart),
            AGAIN,
            code="finetune.verify",
        )
    return Checked(matrices, numbers, change)
