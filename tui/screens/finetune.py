"""Step 4: a LoRA adapter, trained on the quantized model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from textual.widget import Widget

from core.options import AUTO
from tui.screens.stage import TALL, StageScreen
from tui.widgets.chart import LossChart

if TYPE_CHECKING:
    from tui.snapshot import JobView


class FinetuneScreen(StageScreen):
    """Steps, rank and rate; the loss while it learns."""

    NAME = "finetune"
    CSS_PATH: ClassVar[list[str]] = ["stage.tcss", "finetune.tcss"]  # type: ignore[assignment]
    MAIN: ClassVar[Sequence[str]] = (
        "finetune.adapter",
        "finetune.steps",
        "finetune.rank",
        "finetune.learning_rate",
        "finetune.batch_size",
    )
    MORE: ClassVar[Sequence[str]] = (
        "finetune.alpha",
        "finetune.gradient_accumulation",
        "finetune.warmup_ratio",
        "finetune.dropout",
        "finetune.eval_steps",
        "finetune.save_steps",
        "finetune.memory",
        "finetune.seed",
    )
    METRICS: ClassVar[Mapping[str, str]] = {
        "tokens_per_s": "tokens/s",
        "learning_rate": "rate",
        "grad_norm": "gradient",
        "gpu_mem_gib": "GPU GiB",
        "ram_gib": "memory GiB",
    }

    def __init__(self) -> None:
        super().__init__()
        self.chart = LossChart(id="loss")

    def picture(self) -> Widget:
        return self.chart

    def advice(self, values: Mapping[str, Any]) -> str:
        steps, batch = values["finetune.steps"], values["finetune.batch_size"]
        stop = "You can stop at any time: the next run goes on from the last checkpoint."
        if AUTO in (steps, batch):
            return stop
        seen = steps * batch * values["finetune.gradient_accumulation"]
        return f"The model sees {seen} records, some more than once. {stop}"

    def draw(self, view: JobView | None) -> None:
        if view is None:
            return
        recipe = view.spec.get("recipe", {})
        last = recipe.get("finetune", {}).get("steps") if isinstance(recipe, dict) else None
        if last == AUTO:
            last = (view.result or {}).get("steps") or (view.total if view.phase == "training" else None)
        self.chart.show(view.train, view.held, float(last) if isinstance(last, int | float) else None)
        # On a low terminal the curve gives way to what is to be read: the error, the result.
        low = self.size.height < TALL
        told = len((view.error or {}).get("detail", "").splitlines()) if view.state != "cancelled" else 0
        self.chart.display = (bool(view.train or view.held) or view.active) and not (low and told > 4)
        self.chart.styles.height = (
            16 if not low else 10 if view.active else 8 if view.state == "succeeded" else 7
        )

    def _run_word(self, view: JobView | None) -> str:
        if view is not None and view.state in ("cancelled", "crashed") and view.train:
            return "Go on"
        return super()._run_word(view)
