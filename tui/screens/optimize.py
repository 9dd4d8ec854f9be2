"""Step 5: the ONNX graph for the device that will run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from textual.widget import Widget

from tui.screens.stage import StageScreen
from tui.widgets.bars import SizeBars
from tui.widgets.form import Form

if TYPE_CHECKING:
    from core.optimize.targets import Target
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

    def __init__(self) -> None:
        super().__init__()
        self.bars = SizeBars(id="sizes")
        self._targets: list[Target] | None = None

    def choices(self) -> Mapping[str, Mapping[Any, str]]:
        providers: dict[Any, str] = {}
        for target in self.targets:
            why = "" if target.can_build else f" - not here: {target.why}"
            note = "" if target.can_run or why else " - can be built here, but not tried"
            providers.setdefault(target.provider, target.provider + why + note)
        return {
            "optimize.device": {
                "cpu": "CPU - runs on every machine",
                "gpu": "GPU - an NVIDIA card, or DirectX on Windows",
                "npu": "NPU - a neural processor (Qualcomm)",
            },
            "optimize.provider": providers,
            "optimize.precision": {
                "int4": "int4 - small and fast; the usual choice",
                "int8": "int8 - twice the size, nearer to the original",
                "fp16": "fp16 - for GPUs",
                "bf16": "bf16 - for newer GPUs",
                "fp32": "fp32 - full precision, eight times the size",
            },
        }

    @property
    def targets(self) -> list[Target]:
        """What can be built and run here, and why not; looked up once."""
        if self._targets is None:
            from core.optimize.targets import list_targets

            self._targets = list_targets()
        return self._targets

    def on_form_edited(self, event: Form.Edited) -> None:
        """A provider and a precision that fit the device come with it."""
        device, provider, precision = (self.form.fields[name].control for name in self.MAIN)
        fitting = [t for t in self.targets if t.device == device.value]
        if fitting and provider.value not in {t.provider for t in fitting}:
            provider.value = next((t for t in fitting if t.can_build), fitting[0]).provider
        fitting = [t for t in fitting if t.provider == provider.value]
        if fitting and precision.value not in {t.precision for t in fitting}:
            precision.value = fitting[0].precision

    def picture(self) -> Widget:
        return self.bars

    def advice(self, values: Mapping[str, Any]) -> str:
        chosen = tuple(values[name] for name in self.MAIN)
        target = next((t for t in self.targets if (t.device, t.provider, t.precision) == chosen), None)
        if target is None:
            return "This precision does not go with this provider."
        if not target.can_build:
            return f"This machine cannot build it: {target.why} {target.fix}"
        if "finetune" not in self.olive.snapshot.made:
            return "There is no adapter yet, so the base model alone would be made. To have your own, do step 4 first."
        if not target.can_run:
            return f"It can be built here, but not tried: {target.why} {target.fix}"
        return "The adapter of step 4 is put beside the model, to be switched on and off while it runs."

    def draw(self, view: JobView | None) -> None:
        result = (view.result if view else None) or {}
        named = (("float16_bytes", "16 bits"), ("base_bytes", "as ONNX"), ("adapter_bytes", "adapter"))
        sizes = [(word, float(result[key])) for key, word in named if result.get(key)]
        self.bars.display = bool(sizes)
        self.bars.show(*sizes)
