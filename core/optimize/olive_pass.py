"""The optimize stage as one Olive pass, for workflows that are run by ``olive run``.

The model builder makes the graph of the base; then the branches for adapters are added to it,
and the adapter that the model carries becomes a file of its own beside the graph.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from olive.model import HfModelHandler, ONNXModelHandler
from olive.passes.pass_config import PassConfigParam

from core.files import folder_stamp
from core.model.folder import read_config
from core.optimize.adapters import add_adapter
from core.optimize.build import context_limit, open_graph
from core.optimize.genai import complete_config, end_tokens
from core.optimize.lora import arrange, read_lora
from core.optimize.model_builder import OlivePressModelBuilder
from core.recipe import Recipe, read_recipe


class OlivePressOnnx(OlivePressModelBuilder):
    """An ONNX model for onnxruntime-genai whose adapters are optional inputs of the base's graph."""

    @classmethod
    def _default_config(cls, accelerator_spec: Any) -> dict[str, PassConfigParam]:
        own = {
            "adapter": ("adapter", "Name of the adapter's file, if the model carries one."),
            "recipe": (None, "A lab.toml; its template tells which token ends an answer."),
        }
        return {
            **super()._default_config(accelerator_spec),
            **{
                key: PassConfigParam(type_=str, default_value=default, description=text)
                for key, (default, text) in own.items()
            },
        }

    def _run_for_config(self, model: HfModelHandler, config: Any, output_model_path: str) -> ONNXModelHandler:
        checkpoint = Path(model.model_path)
        made = super()._run_for_config(model, config, output_model_path)
        folder = Path(made.model_path).parent
        layout = open_graph(folder, checkpoint, folder_stamp(checkpoint))
        recipe = read_recipe(Path(config.recipe)) if config.recipe else Recipe()
        complete_config(folder, end_tokens(checkpoint, recipe), context_limit(read_config(checkpoint)))
        if model.adapter_path:
            lora = read_lora(Path(model.adapter_path))
            about = {"rank": lora.rank, "alpha": lora.alpha, "modules": sorted(lora.pairs)}
            add_adapter(folder, config.adapter, arrange(lora, layout), about)
        return made
