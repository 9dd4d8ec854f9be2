"""Step 3: fewer bits for each weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from textual.widget import Widget

from tui.screens.stage import StageScreen
from tui.widgets.bars import SizeBars

if TYPE_CHECKING:
    from tui.snapshot import JobView

ALGORITHMS = {
    "awq": "AWQ - keeps the weights that matter most; the best start",
    "gptq": "GPTQ - corrects each rounding with the next; slower",
    "awq+gptq": "AWQ then GPTQ - the most careful, the slowest",
    "kquant": "k-quant - better scales without looking at records; fast",
    "rtn": "Rounding - to the nearest value; seconds, a little worse",
    "none": "None - keep the weights as they are",
}

NEEDS = {
    "awq": "AWQ reads your records to see which weights matter. It runs on a GPU or, slower, on the CPU.",
    "gptq": "GPTQ reads your records. For models of billions of weights it wants a GPU.",
    "awq+gptq": "Both read your records. For models of billions of weights they want a GPU.",
    "kquant": "It looks at the weights alone: no records, no GPU.",
    "rtn": "It looks at the weights alone: no records, no GPU. Good for a first try.",
    "none": "Nothing gets smaller; later steps work on the full weights and need their memory.",
}


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

    SHOWN: ClassVar[Mapping[str, str]] = {
        "algorithm": "Algorithm",
        "bits": "Bits",
        "group_size": "Group size",
        "perplexity_float|perplexity": "Perplexity",
        "same_likeliest_token": "Same next word",
        "calibration_rows": "Records looked at",
    }

    def __init__(self) -> None:
        super().__init__()
        self.bars = SizeBars(id="sizes")

    def choices(self) -> Mapping[str, Mapping[Any, str]]:
        return {
            "quantize.algorithm": ALGORITHMS,
            "quantize.bits": {4: "4 - a quarter of the size", 8: "8 - half the size"},
        }

    def picture(self) -> Widget:
        return self.bars

    def advice(self, values: Mapping[str, Any]) -> str:
        return NEEDS.get(values["quantize.algorithm"], "")

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
