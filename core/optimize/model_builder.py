"""ONNX graphs by onnxruntime-genai's newest model builder, as an Olive pass.

Olive's own ModelBuilder pass reaches into the builder of older releases, which knows fewer architectures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from olive.model import HfModelHandler, ONNXModelHandler
from olive.passes import Pass
from olive.passes.pass_config import PassConfigParam

from core.model.architectures import require
from core.model.folder import read_config
from core.optimize.genai_builder import build


class OlivePressModelBuilder(Pass):
    """A model folder for onnxruntime-genai from a Hugging Face model, float or packed by Olive."""

    @classmethod
    def _default_config(cls, accelerator_spec: Any) -> dict[str, PassConfigParam]:
        return {
            "precision": PassConfigParam(
                type_=str,
                default_value="int4",
                description="Of the weights: int4, int8, fp16, bf16, fp32. Packed weights stay as they are.",
            ),
            "options": PassConfigParam(
                type_=dict[str, Any],
                default_value={},
                description="Further options of onnxruntime_genai.models.builder, by their names there.",
            ),
        }

    @staticmethod
    def is_accelerator_agnostic(accelerator_spec: Any) -> bool:
        """Graphs differ between execution providers."""
        return False

    def _run_for_config(self, model: HfModelHandler, config: Any, output_model_path: str) -> ONNXModelHandler:
        checkpoint, folder = Path(model.model_path), Path(output_model_path)
        require(read_config(checkpoint), str(checkpoint))
        build(
            checkpoint,
            folder,
            precision=config.precision,
            provider=str(self.accelerator_spec.execution_provider),
            options=config.options or {},
            work=folder.with_name(f"{folder.name}.work"),
            trust_remote_code=bool(model.load_kwargs and model.load_kwargs.trust_remote_code),
        )
        return ONNXModelHandler(folder, onnx_file_name="model.onnx")
