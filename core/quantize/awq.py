"""AWQ as an Olive pass: activation-aware scales and ranges, then plain rounding or GPTQ's, or one that is learnt.

For each decoder layer, one at a time: collect the Gram matrix of what each matrix reads; find the
scales that leave the smallest output error and fold them into what makes that input; run the layer,
and undo a fold that moved its output; find each group's range; round and pack. The result is a
checkpoint in Olive's own format. Sources: Lin et al., arXiv 2306.00978; docs/awq.md.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from olive.common.utils import StrEnumBase, set_attr
from olive.data.config import DataConfig
from olive.passes import Pass
from olive.passes.pass_config import PassConfigParam
from olive.passes.pytorch.common import inherit_hf_from_hf
from olive.passes.pytorch.quant_utils import (
    get_quant_config,
    get_quantizer_config,
    normalize_qkv_quant_config,
)
from olive.passes.pytorch.train_utils import get_calibration_dataset, load_hf_base_model
from torch import Tensor, nn

from core.errors import RequestError
from core.hardware import multiplies_bf16
from core.language import told
from core.olive.checkpoint import OliveHfQuantizationConfig, QuantLinear, pack, save_quantized, store
from core.olive.passes import options
from core.quantize.awq_folds import Fold, Master, apply, find_folds, moved, undo
from core.quantize.awq_math import (
    Check,
    Grid,
    Rounded,
    add_to_gram,
    complete_gram,
    exact_products,
    matrix_units,
    never,
    round_nearest,
    search_scales,
)
from core.quantize.gptq import made_up_for, round_gptq
from core.quantize.layerwise import CalibrationBatch, LayerwiseModel, UnknownNames, batches, dtype_of
from core.quantize.signround import learn_rounding
from core.tqdm_progress import current_report

logger = logging.getLogger("olive.passes.olivepress_awq")

TOLERANCE = {torch.float32: 2e-3, torch.float16: 2e-2, torch.bfloat16: 6e-2}
"""How far a fold may move a layer's output, as a share of what the layer adds: rounding and no more."""

LARGE = 1 << 23
"""Weights of a matrix, or of those that share an input, from which a CPU searches on some rows only."""


class Rounding(StrEnumBase):
    """How codes are chosen once the scales are known."""

    NEAREST = "nearest"
    GPTQ = "gptq"


@dataclass
class AwqStats:
    """What was folded, what was left as it was, and how the search ended, for the result and the log."""

    folded: dict[str, int] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    error: float = 0.0
    plain: float = 0.0
    ratios: list[float] = field(default_factory=list)
    learnt: list[float] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For the model's attributes: numbers and words."""
        return {
            "folds": sum(self.folded.values()),
            "folds_left": [f"{what} ({count} layers)" for what, count in self.left.items()],
            "search_error_ratio": round(self.error / self.plain, 4) if self.plain else 1.0,
            "mean_exponent": round(sum(self.ratios) / len(self.ratios), 3) if self.ratios else 0.0,
            **({"learnt_error_ratio": round(sum(self.learnt) / len(self.learnt), 4)} if self.learnt else {}),
        }


class LayerStats:
    """Gram matrix and mean magnitude of what each matrix of a layer reads; readers of one input share them.

    With ``drifts``, of batches with ``exact`` also how far the inputs have drifted, as
    :func:`~core.quantize.gptq.made_up_for` takes it.
    """

    def __init__(self, linears: Sequence[nn.Linear], folds: Sequence[Fold], *, drifts: bool = False) -> None:
        self._drifts = drifts
        self._of: dict[nn.Linear, nn.Linear] = {linear: linear for linear in linears}
        for fold in folds:
            for reader in fold.readers:
                self._of[reader] = fold.readers[0]
        self._left = {first: list(self._of.values()).count(first) for first in self._of.values()}
        self._gram: dict[nn.Linear, Tensor] = {}
        self._sum: dict[nn.Linear, Tensor] = {}
        self._drift: dict[nn.Linear, Tensor] = {}
        self._count = 0

    def collect(self, model: LayerwiseModel, index: int, work: Sequence[CalibrationBatch]) -> list[Tensor]:
        """Run a layer on all batches; return its outputs. What is ``exact`` goes through it as well."""
        outputs = []
        for batch in work:
            current_report().check_cancelled()
            exact: dict[nn.Linear, Tensor] = {}
            if batch.exact is not None:
                with self._seen(batch, exact.__setitem__) if self._drifts else nullcontext():
                    batch.exact = model.run_layer(index, replace(batch, hidden=batch.exact))

            def add(linear: nn.Linear, seen: Tensor, exact: dict[nn.Linear, Tensor] = exact) -> None:
                self._add(linear, seen.float(), exact.pop(linear, None))

            with self._seen(batch, add):
                outputs.append(model.run_layer(index, batch))
            self._count += batch.real.numel()
        for gram in self._gram.values():
            complete_gram(gram)
        return outputs

    @contextmanager
    def _seen(self, batch: CalibrationBatch, look: Callable[[nn.Linear, Tensor], None]) -> Iterator[None]:
        """Within it, ``look`` is shown what each matrix reads of the batch's tokens, padding left out."""

        def hook(linear: nn.Linear, inputs: tuple[Any, ...]) -> None:
            look(linear, inputs[0].flatten(0, -2).index_select(0, batch.real))

        hooks = [first.register_forward_pre_hook(hook) for first in self._left]
        try:
            yield
        finally:
            for each in hooks:
                each.remove()

    def _add(self, linear: nn.Linear, seen: Tensor, exact: Tensor | None) -> None:
        width = seen.shape[1]
        if linear not in self._gram:
            self._gram[linear] = seen.new_zeros(width, width)
            self._sum[linear] = seen.new_zeros(width)
        add_to_gram(self._gram[linear], seen)
        self._sum[linear] += seen.abs().sum(0)
        if exact is None:
            return
        if linear not in self._drift:
            self._drift[linear] = seen.new_zeros(width, width)
        # The difference is small and not of 16 bits, as inputs are: TF32 would cut it.
        with exact_products():
            self._drift[linear].addmm_(seen.T, exact.float() - seen)

    def gram(self, linear: nn.Linear) -> Tensor | None:
        """The Gram matrix of the matrix's input; None if nothing was ever put into it."""
        return self._gram.get(self._of[linear])

    def mean(self, linear: nn.Linear) -> Tensor | None:
        """The mean magnitude of each input channel."""
        total = self._sum.get(self._of[linear])
        return None if total is None else total / max(self._count, 1)

    def drift(self, linear: nn.Linear) -> Tensor | None:
        """How far the matrix's input is from what float layers give; None where it is that, or nobody asked."""
        return self._drift.get(self._of[linear])

    def rescale(self, linear: nn.Linear, scales: Tensor) -> None:
        """The input has been divided by ``scales``."""
        first = self._of[linear]
        for products in (self._gram, self._drift):
            if first in products:
                products[first].div_(scales).div_(scales.unsqueeze(1))
        self._sum[first] /= scales

    def kept(self) -> dict[str, Tensor]:
        """What was collected, to be kept elsewhere."""
        firsts = list(self._left)
        return {
            "count": torch.tensor(self._count),
            **{f"gram.{firsts.index(first)}": gram for first, gram in self._gram.items()},
            **{f"sum.{firsts.index(first)}": total for first, total in self._sum.items()},
        }

    def take(self, kept: Mapping[str, Tensor]) -> None:
        """Have what :meth:`kept` gave of the same layer, in place of collecting it."""
        self._count = int(kept["count"])
        for number, first in enumerate(self._left):
            if f"gram.{number}" in kept:
                self._gram[first], self._sum[first] = kept[f"gram.{number}"], kept[f"sum.{number}"]

    def done(self, linear: nn.Linear) -> None:
        """Free the Gram matrix when its last reader has been rounded."""
        first = self._of[linear]
        self._left[first] -= 1
        if not self._left[first]:
            self._gram.pop(first, None)
            self._drift.pop(first, None)


def unclipped_rows(linear: nn.Linear, view: Any) -> int:
    """How many of a matrix's first rows make queries and keys: their product is no linear output."""
    inputs = view.get_attention_inputs(return_name=False)
    if not any(linear is each for each in inputs):
        return 0
    if len(inputs) > 1:
        return 0 if linear is inputs[-1] and len(inputs) == 3 else int(linear.out_features)
    out = view.get_attention_outputs(return_name=False)
    width = out[0].in_features if out else 0
    made = (linear.out_features - width) // 2
    return int(linear.out_features) - max(int(made), 0)


def round_matrix(
    linear: nn.Linear,
    weight: Tensor,
    gram: Tensor | None,
    grid: Grid,
    view: Any,
    *,
    gptq: bool,
    clip: bool,
    damping: float = 0.01,
    check: Check = never,
) -> Rounded:
    """Round one matrix of a layer, as the options of the pass say.

    Args:
        weight: its float32 weights, scaled already.
        gram: of what it reads; None where nothing was ever put into it.
        view: Olive's view of the layer.
    """
    if gram is None:
        return round_nearest(weight, None, grid, clip=False, check=check)
    if gptq:
        # GPTQ weighs what is left of each error anyway, so a clipped q or k does no harm there.
        return round_gptq(weight, gram, grid, damping=damping, clip=clip, check=check)
    cut = unclipped_rows(linear, view) if clip else weight.shape[0]
    parts = []
    if cut:
        parts.append(round_nearest(weight[:cut], None, grid, clip=False, check=check))
    if cut < weight.shape[0]:
        parts.append(round_nearest(weight[cut:], gram, grid, clip=True, check=check))
    if len(parts) == 1:
        return parts[0]
    return Rounded(
        *(torch.cat([getattr(each, name) for each in parts]) for name in ("codes", "scale", "zero"))
    )


class OlivePressAwq(Pass):
    """Activation-aware weight quantization (AWQ) for Hugging Face causal language models."""

    @classmethod
    def _default_config(cls, accelerator_spec: Any) -> dict[str, PassConfigParam]:
        data = PassConfigParam(
            type_=DataConfig | dict,
            default_value=None,
            required=True,
            description="Calibration data: token rows of the kind that the model will meet.",
        )
        own: dict[str, tuple[Any, Any, str]] = {
            "rounding": (
                Rounding,
                Rounding.NEAREST,
                "nearest: round to the nearest code. gptq: spread rounding errors as GPTQ does; more exact and slower.",
            ),
            "scale": (bool, True, "Search and fold scales."),
            "clip": (bool, True, "Search the range of each group (with nearest never that of q and k)."),
            "steps": (int, 20, "Steps of the exponent between 0 and 1."),
            "duo": (
                bool,
                True,
                "Try scales from activations and weights as well as from activations alone.",
            ),
            "damp_percent": (float, 0.01, "GPTQ's damping factor."),
            "correction": (
                float,
                0.0,
                "Share of the earlier layers' errors that each matrix makes up for, with gptq and quantized_inputs.",
            ),
            "learn": (
                int,
                0,
                "Steps in which the rounding and scales of a layer's matrices are learnt together (SignRound).",
            ),
            "quantized_inputs": (
                bool,
                None,
                "Calibrate each layer on the output of the quantized layers before it rather than of the float ones."
                " Default is what does best: False for nearest that is not learnt, else True.",
            ),
            "search_rows": (
                int,
                None,
                "Rows of each matrix that the scale search looks at, picked by the seed; 0 for all. Default is all on a"
                " GPU and 1024 of a large matrix on a CPU.",
            ),
            "batch_tokens": (int, 0, "Tokens run at once; 0 chooses by the device."),
            "device": (str, "auto", "cpu, cuda, cuda:N, or auto."),
            "seed": (int, 0, "Seed of search_rows and of the batches of learn."),
        }
        return {**get_quantizer_config(), "data_config": data, **options(own)}

    @classmethod
    def validate_config(cls, config: Any, accelerator_spec: Any) -> bool:
        """Refuse impossible values; the reason is logged, as Olive's own passes do."""
        if not super().validate_config(config, accelerator_spec):
            return False
        size = config.group_size
        wrong = [
            (
                size != -1 and (size < 16 or size & (size - 1) != 0),
                "group_size must be -1 or a power of 2 from 16",
            ),
            (config.steps < 1, "steps must be at least 1"),
            (not 0 < config.damp_percent < 1, "damp_percent must be between 0 and 1"),
            (not 0 <= config.correction <= 1, "correction must be from 0 to 1"),
            (config.learn < 0, "learn must not be negative"),
            ((config.search_rows or 0) < 0, "search_rows must not be negative"),
            (config.batch_tokens < 0, "batch_tokens must not be negative"),
            (config.data_config is None, "data_config is required: AWQ needs calibration data"),
        ]
        for bad, reason in wrong:
            if bad:
                logger.info(reason)
                return False
        return True

    def _run_for_config(self, model: Any, config: Any, output_model_path: str) -> Any:
        with torch.no_grad():
            run = _Run(model, config)
            # A float32 model's folds are checked closer than TF32 computes, and would be undone.
            with nullcontext() if run.model.dtype == torch.float32 else matrix_units():
                return run.save(output_model_path)


class _Run:
    """One run of the pass over one model."""

    def __init__(self, handler: Any, config: Any) -> None:
        self.handler, self.config = handler, config
        self.report = current_report()
        self.stats = AwqStats()
        device = config.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self.model = self._open(device)
        self.quantization: OliveHfQuantizationConfig = normalize_qkv_quant_config(
            self.model.wrapper, get_quant_config(handler, config)
        )
        self.gptq = config.rounding == Rounding.GPTQ
        quantized = config.quantized_inputs
        self.quantized_inputs = self.gptq or config.learn > 0 if quantized is None else quantized
        self.correction = config.correction if self.gptq and self.quantized_inputs else 0.0
        self.with_floats = self.quantized_inputs and (self.correction > 0 or config.learn > 0)
        self.names = {id(module): name for name, module in self.model.model.named_modules()}

    def _open(self, device: str) -> LayerwiseModel:
        if getattr(self.handler.get_hf_model_config(), "quantization_config", None):
            raise ValueError("Model is already quantized. Cannot quantize again using this pass.")
        stored = dtype_of(self.handler.get_hf_model_config())
        options = self.handler.get_load_kwargs()
        trust = bool(options.get("trust_remote_code", False))
        dtype = None
        if device == "cpu" and not (stored is torch.bfloat16 and multiplies_bf16()):
            # 16-bit arithmetic is slow on most CPUs; float32 is exact besides.
            dtype = torch.float32
        path = Path(self.handler.model_name_or_path)
        with suppress(UnknownNames):
            if path.is_dir() and list(path.glob("*.safetensors")):
                return LayerwiseModel(path, device, dtype=dtype, trust_remote_code=trust)
        return LayerwiseModel(path, device, dtype=dtype, whole=load_hf_base_model(self.handler))

    def save(self, output: str) -> Any:
        """Do all of it; return the handler of the model in ``output``."""
        model, report = self.model, self.report
        started = time.monotonic()
        try:
            work = self._rows()
            model.load_outer()
            model.start(work)
            for batch in work:
                batch.real = batch.real.reshape(-1).nonzero().squeeze(1).to(self.device)
            total = len(model.layers)
            report.progress(told("Scaling and rounding the layers"), 0, total)
            for index in range(total):
                report.check_cancelled()
                self._layer(index, work)
                report.progress(told("Scaling and rounding the layers"), index + 1, total)
            self._head(work)
            model.release_outer()
        finally:
            model.close()
        logger.info("Scaled and rounded %d layers in %.1f s", total, time.monotonic() - started)
        for what, count in self.stats.left.items():
            report.log(f"AWQ left as it was, in {count} layers: {what}.", "info")
        return self._write(output)

    def _rows(self) -> list[CalibrationBatch]:
        rows = [
            [token for token, real in zip(ids.tolist(), mask.tolist(), strict=True) if real]
            for item in get_calibration_dataset(self.handler, self.config.data_config)
            for ids, mask in zip(item["input_ids"], item["attention_mask"], strict=True)
        ]
        rows = [row for row in rows if row]
        if not rows:
            raise ValueError("Calibration data is empty. Provide a valid data_config.")
        tokens = self.config.batch_tokens or (8192 if self.device.type == "cuda" else 2048)
        return batches(rows, tokens)

    # One layer

    def _layer(self, index: int, work: list[CalibrationBatch]) -> None:
        model = self.model
        layer = model.load_layer(index)
        view = model.wrapper.get_layer_wrappers()[index]
        linears = [module for module in layer.modules() if isinstance(module, nn.Linear)]
        grids = {linear: self._grid(linear) for linear in linears}
        folds, left = find_folds(view, model.wrapper.head_dim)
        for what in left:
            self.stats.left[what] = self.stats.left.get(what, 0) + 1
        stats = LayerStats(linears, folds, drifts=self.correction > 0)
        outputs = stats.collect(model, index, work)
        master: Master = {linear: linear.weight.data.float() for linear in linears}
        for fold in folds if self.config.scale else ():
            self._fold(fold, index, work[0], outputs[0], master, stats, grids)
        whole = dict(master) if self.config.learn else {}
        rounded: dict[nn.Linear, Rounded] = {}
        for linear in linears:
            self.report.check_cancelled()
            rounded[linear] = round_matrix(
                linear,
                self._wanted(linear, master, stats),
                stats.gram(linear),
                grids[linear],
                view,
                gptq=self.gptq,
                clip=self.config.clip,
                damping=self.config.damp_percent,
                check=self.report.check_cancelled,
            )
            stats.done(linear)
        if self.config.learn:
            rounded = self._learnt(index, work, outputs, whole, rounded, grids)
        whole.clear()
        for linear, one in rounded.items():
            set_attr(model.model, self.names[id(linear)], self._packed(one, linear))
        store(layer, model.dtype)
        if self.quantized_inputs:
            store(layer, model.compute, scales=True)
            for batch, out in zip(work, outputs, strict=True):
                if self.with_floats and index == 0:
                    batch.exact = out  # to here both ways are one
                batch.hidden = model.run_layer(index, batch)
            store(layer, model.dtype, scales=True)
        else:
            for batch, out in zip(work, outputs, strict=True):
                batch.hidden = out
        layer.to("cpu")

    def _learnt(
        self,
        index: int,
        work: list[CalibrationBatch],
        outputs: list[Tensor],
        weights: Mapping[nn.Linear, Tensor],
        rounded: dict[nn.Linear, Rounded],
        grids: Mapping[nn.Linear, Grid],
    ) -> dict[nn.Linear, Rounded]:
        targets = [
            out if batch.exact is None else batch.exact for batch, out in zip(work, outputs, strict=True)
        ]
        learnt = learn_rounding(
            self.model,
            index,
            work,
            targets,
            weights,
            rounded,
            grids,
            steps=self.config.learn,
            seed=self.config.seed,
            check=self.report.check_cancelled,
        )
        self.stats.learnt.append(learnt.after / learnt.before if learnt.before else 1.0)
        return learnt.rounded

    def _wanted(self, linear: nn.Linear, master: Master, stats: LayerStats) -> Tensor:
        """What a matrix's rounded weights are to be near to; it is taken out of ``master``."""
        weight, gram, drift = master.pop(linear), stats.gram(linear), stats.drift(linear)
        if gram is None or drift is None:
            return weight
        return made_up_for(weight, gram, drift, self.correction, damping=self.config.damp_percent)

    def _grid(self, linear: nn.Linear) -> Grid:
        name = self.names[id(linear)]
        args = self.quantization.get_qlinear_init_args(name)
        bits = getattr(args["bits"], "value", args["bits"])
        grid = Grid(int(bits), bool(args["symmetric"]), int(args["group_size"]), self.model.dtype)
        if linear.in_features % grid.width(linear.in_features):
            raise RequestError(
                told(
                    "The group size {group_size} does not divide the model's weights.",
                    group_size=grid.group_size,
                ),
                told("{name} has {in_features} inputs.", name=name, in_features=linear.in_features),
                told("Choose a group size that divides the inputs of every layer."),
                code="model.group-size",
            )
        return grid

    def _packed(self, rounded: Rounded, linear: nn.Linear) -> QuantLinear:
        grid = self._grid(linear)
        scales = rounded.scale.to(grid.dtype)
        return pack(
            rounded.codes,
            scales,
            rounded.zero,
            linear,
            bits=grid.bits,
            symmetric=grid.symmetric,
            group_size=grid.group_size,
        )

    def _fold(
        self,
        fold: Fold,
        index: int,
        probe: CalibrationBatch,
        expected: Tensor,
        master: Master,
        stats: LayerStats,
        grids: dict[nn.Linear, Grid],
    ) -> None:
        gram, mean = stats.gram(fold.readers[0]), stats.mean(fold.readers[0])
        if gram is None or mean is None:
            return
        weight = torch.cat([master[reader] for reader in fold.readers])
        rows = self.config.search_rows
        if rows is None:
            rows = 1024 if self.device.type == "cpu" and weight.numel() > LARGE else 0
        if rows and rows < weight.shape[0]:
            picker = torch.Generator().manual_seed(self.config.seed + index)
            weight = weight[torch.randperm(weight.shape[0], generator=picker)[:rows].to(weight.device)]
        choice = search_scales(
            weight,
            gram,
            mean,
            grids[fold.readers[0]],
            steps=self.config.steps,
            duo=self.config.duo,
            share=fold.share,
            check=self.report.check_cancelled,
        )
        del weight
        self.stats.plain += choice.plain
        self.stats.error += choice.error
        self.stats.ratios.append(choice.ratio)
        if choice.error >= choice.plain:
            self.stats.folded[fold.name] = self.stats.folded.get(fold.name, 0)
            return
        scales, before = apply(fold, choice.scales, master, self.model.dtype)
        after = self.model.run_layer(index, probe)
        share = moved([expected], [after], [probe.hidden])
        if share > TOLERANCE.get(self.model.compute, 6e-2):
            undo(before, master)
            self.stats.error += choice.plain - choice.error
            what = f"{fold.name}: folding its scale moved the layer's output"
            self.stats.left[what] = self.stats.left.get(what, 0) + 1
            logger.info("Layer %d, %s: undone, the output moved by %.3g", index, fold.name, share)
            return
        self.stats.folded[fold.name] = self.stats.folded.get(fold.name, 0) + 1
        stats.rescale(fold.readers[0], scales)

    # The rest of the model

    def _head(self, work: Sequence[CalibrationBatch]) -> None:
        model, report = self.model, self.report
        report.progress(told("Rounding the output matrix"), 0, None)
        if not self.config.lm_head:
            if model.tied:
                model.model.tie_weights()
            else:
                model.load_head(model.dtype).to("cpu")
            return
        head = model.load_head(model.dtype)
        grid = self._grid(head)
        gram = None
        if grid.bits < 8 and self.config.clip:
            for batch in work:
                seen = model.final_norm(batch.hidden).flatten(0, -2).index_select(0, batch.real).float()
                gram = seen.new_zeros(seen.shape[1], seen.shape[1]) if gram is None else gram
                add_to_gram(gram, seen)
            if gram is not None:
                complete_gram(gram)
        rounded = round_nearest(
            head.weight.data, gram, grid, clip=gram is not None, check=report.check_cancelled
        )
        set_attr(model.model, model.head_name, self._packed(rounded, head).to("cpu"))
        if model.tied:
            model.model.config.tie_word_embeddings = False
        report.progress(told("Rounding the output matrix"), 1, 1)

    def _write(self, output: str) -> Any:
        self.report.progress(told("Writing the weights"), 0, None)
        model = self.model.model
        save_quantized(model, self.quantization, output)
        self.handler.save_metadata(output)
        handler = inherit_hf_from_hf(self.handler, output, adapter_path=self.handler.adapter_path)
        handler.model_attributes = {
            **(handler.model_attributes or {}),
            "olivepress_quantize": self.stats.as_dict(),
        }
        return handler
