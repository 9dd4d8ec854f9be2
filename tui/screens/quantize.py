"""Step 3: fewer bits for each weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from textual.widget import Widget

from core.algorithms import ALGORITHMS
from tui.screens.stage import StageScreen
from tui.widgets.bars import SizeBars

if TYPE_CHECKING:
    from tui.snapshot import JobView


class QuantizeScreen(StageScreen):
    """Model and algorithm; size before and after."""

    NAME = "quantize"
    CSS_PATH: ClassVar[list[str]] = ["stage.tcss", "quantize.tcss"]  # type: ignore[assignment]
    MAIN: ClassVar[Sequence[str]] = (
        "model.source",
        "quantize.algorithm",
        "quantize.bits",
        "quantize.group_size",
    )
    MORE: ClassVar[Sequence[str]] = (
        "quantize.calibration_samples",
        "quantize.max_calibration_len",
        "quantize.calibration_file",
        "quantize.seed",
        "model.trust_remote_code",
    )
    LONG: ClassVar[Sequence[str]] = ("model.source", "quantize.algorithm", "quantize.calibration_file")
    METRICS: ClassVar[Mapping[str, str]] = {
        "gpu_mem_gib": "GPU GiB",
        "ram_gib": "memory GiB",
        "cpu_util": "CPU %",
    }

    def __init__(self) -> None:
        super().__init__()
        self.bars = SizeBars(id="sizes")

    def choices(self) -> Mapping[str, Mapping[Any, str]]:
        return {
            "quantize.algorithm": {name: each.title for name, each in ALGORITHMS.items()},
            "quantize.bits": {4: "4 - a quarter of the size", 8: "8 - half the size"},
        }

    def picture(self) -> Widget:
        return self.bars

    def advice(self, values: Mapping[str, Any]) -> str:
        algorithm = ALGORITHMS.get(values["quantize.algorithm"])
        return algorithm.advice if algorithm else ""

    def draw(self, view: JobView | None) -> None:
        sizes = sizes_of(view.result if view else None)
        self.bars.display = bool(sizes)
        self.bars.show(*sizes)


def sizes_of(result: Mapping[str, Any] | None) -> list[tuple[str, float]]:
    """Bytes before and after, from a result that tells them."""
    found = []
    for key, word in (("bytes_before", "before"), ("bytes_after", "after")):
        value = (result or {}).get(key)
        if isinstance(value, int | float):
            found.append((word, float(value)))
    return found
