"""Step 5: the ONNX graph for the device that will run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from textual.widget import Widget

from tui.screens.stage import StageScreen
from tui.widgets.bars import SizeBars

if TYPE_CHECKING:
    from tui.snapshot import JobView


class OptimizeScreen(StageScreen):
    """Device, provider and precision; size before and after."""

    NAME = "optimize"
    CSS_PATH: ClassVar[list[str]] = ["stage.tcss", "optimize.tcss"]  # type: ignore[assignment]
    MAIN: ClassVar[Sequence[str]] = ("optimize.device", "optimize.provider", "optimize.precision")
    LONG: ClassVar[Sequence[str]] = ("optimize.device", "optimize.provider", "optimize.precision")
    METRICS: ClassVar[Mapping[str, str]] = {
        "gpu_mem_gib": "GPU GiB",
        "ram_gib": "memory GiB",
        "cpu_util": "CPU %",
    }

    SHOWN: ClassVar[Mapping[str, str]] = {
        "provider": "Provider",
        "precision": "Precision",
        "adapter": "Adapter",
        "verified": "Tried here",
        "training_prompts": "Questions asked again",
        "training_right_base": "right by the base",
        "training_right_tuned": "right when tuned",
        "tokens": "Tokens compared with PyTorch",
        "agreeing": "agreeing",
    }

    def __init__(self) -> None:
        super().__init__()
        self.bars = SizeBars(id="sizes")

    def choices(self) -> Mapping[str, Mapping[Any, str]]:
        return {
            "optimize.device": {
                "cpu": "CPU - runs on every machine",
                "gpu": "GPU - an NVIDIA card, or DirectX on Windows",
                "npu": "NPU - a neural processor (Qualcomm)",
            },
            "optimize.precision": {
                "int4": "int4 - small and fast; the usual choice",
                "int8": "int8 - twice the size, nearer to the original",
                "fp16": "fp16 - for GPUs",
                "bf16": "bf16 - for newer GPUs",
                "fp32": "fp32 - full precision, eight times the size",
            },
        }

    def picture(self) -> Widget:
        return self.bars

    def advice(self, values: Mapping[str, Any]) -> str:
        from core.recipe import Recipe

        try:
            Recipe().with_values(dict(values))
        except Exception as error:  # told as advice; it stops the run as well
            return " ".join(str(error).split("\n"))
        return "The adapter of step 4 is put beside the model, to be switched on and off while it runs."

    def draw(self, view: JobView | None) -> None:
        result = (view.result if view else None) or {}
        named = (("float16_bytes", "16 bits"), ("base_bytes", "as ONNX"), ("adapter_bytes", "adapter"))
        sizes = [(word, float(result[key])) for key, word in named if result.get(key)]
        self.bars.display = bool(sizes)
        self.bars.show(*sizes)
