"""Our Olive passes that make ONNX models: the model builder's graph, and with it all of the optimize stage.

Olive's own ModelBuilder pass reaches into the builder of older releases, which knows fewer architectures. The second
pass is for workflows that are run by ``olive run``: it adds the places for adapters to the base's graph, and the
adapter that the model carries becomes a file of its own beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from olive.model import HfModelHandler, ONNXModelHandler
from olive.passes import Pass
from olive.passes.pass_config import PassConfigParam

from core.files import folder_stamp
from core.model.architectures import require
from core.model.folder import read_config
from core.olive.passes import options
from core.optimize.adapters import arrange, read_lora
from core.optimize.adding import add_adapter
from core.optimize.build import context_limit, open_graph
from core.optimize.genai import complete_config, end_tokens
from core.optimize.genai_builder import build
from core.recipe import Recipe, read_recipe


class OlivePressModelBuilder(Pass):
    """A model folder for onnxruntime-genai from a Hugging Face model, float or packed by Olive."""

    @classmethod
    def _default_config(cls, accelerator_spec: Any) -> dict[str, PassConfigParam]:
        return options(
            {
                "precision": (
                    str,
                    "int4",
                    "Of the weights: int4, int8, fp16, bf16, fp32. Packed weights stay as they are.",
                ),
                "options": (
                    dict[str, Any],
                    {},
                    "Further options of onnxruntime_genai.models.builder, by their names there.",
                ),
            }
        )

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


class OlivePressOnnx(OlivePressModelBuilder):
    """An ONNX model for onnxruntime-genai whose adapters are optional inputs of the base's graph."""

    @classmethod
    def _default_config(cls, accelerator_spec: Any) -> dict[str, PassConfigParam]:
        own = {
            "adapter": (str, "adapter", "Name of the adapter's file, if the model carries one."),
            "recipe": (str, None, "A lab.toml; its template tells which token ends an answer."),
        }
        return {**super()._default_config(accelerator_spec), **options(own)}

    def _run_for_config(self, model: HfModelHandler, config: Any, output_model_path: str) -> ONNXModelHandler:
        checkpoint = Path(model.model_path)
        made = super()._run_for_config(model, config, output_model_path)
        folder = Path(made.model_path).parent
        recipe = read_recipe(Path(config.recipe)) if config.recipe else Recipe()
        share = recipe.optimize.embeddings == "shared"
        layout = open_graph(folder, checkpoint, folder_stamp(checkpoint), share=share)
        complete_config(folder, end_tokens(checkpoint, recipe), context_limit(read_config(checkpoint)))
        if model.adapter_path:
            lora = read_lora(Path(model.adapter_path))
            about = {"rank": lora.rank, "alpha": lora.alpha, "modules": sorted(lora.pairs)}
            add_adapter(folder, config.adapter, arrange(lora, layout), about)
        return made
