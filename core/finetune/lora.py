"""An Olive pass: LoRA on a model that Olive has quantized (or on a float one), by a loop of our own.

Olive's LoRA pass fails on Olive's own quantized checkpoints, joins the rows of the data and cuts the
result into blocks, and reports nothing while it trains.
"""

from __future__ import annotations

import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

from olive.model import HfModelHandler
from olive.passes import Pass
from olive.passes.pass_config import PassConfigParam

from core.finetune.launch import train
from core.finetune.training import Task
from core.olive.passes import options
from core.tqdm_progress import current_report

RESULT = "olivepress_finetune"
"""The model attribute that holds the numbers of the training."""


class OlivePressLora(Pass):
    """Train a LoRA adapter on all linear layers of a quantized or float causal language model."""

    @classmethod
    def _default_config(cls, accelerator_spec: Any) -> dict[str, PassConfigParam]:
        return options(
            {
                # Not the settings themselves: Olive takes any text that happens to be a path for one.
                "recipe": (str, None, "A lab.toml; [data] and [finetune] tell what to train on, and how."),
                "data_root": (str, ".", "Folder that data.file is relative to."),
                "checkpoints": (str, None, "Folder for checkpoints; none are kept without it."),
                "checkpoint_key": (str, "", "Only a checkpoint with the same key is resumed."),
                "adapter_only": (
                    bool,
                    False,
                    "Give back the adapter without its base, which Olive would copy.",
                ),
            }
        )

    def _run_for_config(self, model: HfModelHandler, config: Any, output_model_path: str) -> HfModelHandler:
        base, adapter = Path(model.model_path), Path(output_model_path) / "adapter"
        task = Task(
            base=str(base),
            recipe=config.recipe or "",
            data_root=config.data_root,
            checkpoints=config.checkpoints or "",
            checkpoint_key=config.checkpoint_key,
            adapter=str(adapter),
        )
        result = train(task, current_report())
        output = deepcopy(model)
        output.set_resource("adapter_path", str(adapter))
        if config.adapter_only:
            # Olive wants a model folder here, and copies it: one with a configuration is enough.
            bare = Path(output_model_path) / "base"
            bare.mkdir(parents=True)
            shutil.copy(base / "config.json", bare)
            output.set_resource("model_path", str(bare))
        output.model_attributes = {**(output.model_attributes or {}), RESULT: result}
        return output
