"""What a way to round costs in quality, told from some of a model's layers: for a search that compares many ways.

The float model reads the calibration rows once, and what each of these layers' matrices read (their Gram matrices)
is kept on the disk. Every way to round starts from that, and so do all of its groups and bits; scales that were
searched once are kept for the others that would find the same. The rounded layers then stand in the float model,
all others as they are, and the divergence on held-out rows says what the rounding does. GPTQ is calibrated on the
float layers' outputs here and in the pass on the rounded ones': what comes out is an estimate, for choosing what
is worth being made whole. The output matrix stays float.

Loads torch and olive: only for a job's process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.algorithms import ALGORITHMS
from core.events import Reporter
from core.language import told
from core.quantize.awq import LayerStats, round_matrix
from core.quantize.awq_folds import Master, apply, find_folds
from core.quantize.awq_math import Grid, Rounded, matrix_units, round_nearest, search_scales
from core.quantize.layerwise import CalibrationBatch, LayerwiseModel, batches
from core.quantize.quality import Quality, compare

OURS = "OlivePressAwq"


@dataclass(frozen=True)
class HowRounded:
    """A way to round: an algorithm, and the bits of each kind of layer."""

    algorithm: str
    bits: int
    group_size: int
    eight_bit: tuple[str, ...] = ()

    def bits_of(self, kind: str) -> int:
        """Of a layer, by the last part of its name."""
        return 8 if kind in self.eight_bit else self.bits


def can_sample(algorithm: str) -> bool:
    """Whether some layers can be rounded by an algorithm here.

    Another pass of Olive's needs them all; one that learns needs what the layers before have made of the records.
    """
    options = ALGORITHMS[algorithm].olive
    return options.get("type") in (OURS, "rtn", "kquant") and not options.get("learn")


class _Quiet(Reporter):
    """Passes on nothing but the wish to stop: what is measured here is a part of a larger whole."""

    def __init__(self, report: Reporter) -> None:
        self._report = report

    def check_cancelled(self) -> None:
        self._report.check_cancelled()


@dataclass
class _Layer:
    """A rounded layer: its matrices in codes, and the float tensors that folding has changed, by their names."""

    matrices: dict[str, tuple[Rounded, Grid]]
    others: dict[str, Tensor]

    def put_into(self, layer: nn.Module, device: torch.device, compute: torch.dtype) -> None:
        state = {name: value.to(device, compute) for name, value in self.others.items()}
        for name, (rounded, grid) in self.matrices.items():
            state[f"{name}.weight"] = rounded.weight(grid).to(device, compute)
        layer.load_state_dict(state, strict=False, assign=True)
        layer.requires_grad_(False)


class SampledModel:
    """A float model, some of whose layers can be rounded in one way or another.

    Args:
        path: its folder, with safetensors.
        rows: token rows to calibrate on.
        held_out: token rows to measure with.
        chosen: the layers that may be rounded.
        work: a folder for what is kept of them.

    Raises:
        UnknownNames: its files cannot be read layer by layer.
    """

    def __init__(
        self,
        path: Path,
        rows: Sequence[Sequence[int]],
        held_out: Sequence[Sequence[int]],
        chosen: Iterable[int],
        work: Path,
        report: Reporter,
        *,
        device: str = "cpu",
        trust_remote_code: bool = False,
    ) -> None:
        self.report, self.work = report, work
        dtype = torch.float32 if device == "cpu" else None
        self.model = LayerwiseModel(path, device, dtype=dtype, trust_remote_code=trust_remote_code)
        self.held_out = [list(row) for row in held_out]
        self._scales: dict[tuple[Any, ...], Tensor] = {}
        self._names = {id(module): name for name, module in self.model.model.named_modules()}
        try:
            with torch.no_grad():
                self.model.load_outer()
                self._measured = [
                    CalibrationBatch(torch.tensor([row]), torch.ones(1, len(row), dtype=torch.long))
                    for row in self.held_out
                ]
                self._look(rows, set(chosen))
        except BaseException:  # Ctrl-C too: the thread that reads would outlive it
            self.close()
            raise

    def close(self) -> None:
        """End the reading thread."""
        self.model.close()

    @property
    def layers(self) -> int:
        """How many layers the model has."""
        return len(self.model.layers)

    def _look(self, rows: Sequence[Sequence[int]], chosen: set[int]) -> None:
        """Let the float model read all rows; keep what the chosen layers read, and what it makes of held-out rows."""
        model = self.model
        work = batches(rows, 2048 if model.device.type == "cpu" else 8192)
        model.start([*work, *self._measured])
        self._first = [batch.hidden for batch in self._measured]
        for batch in work:
            batch.real = batch.real.reshape(-1).nonzero().squeeze(1).to(model.device)
        last = max(chosen, default=-1)
        for index in range(len(model.layers)):
            self.report.check_cancelled()
            self.report.progress(told("Looking at the records"), index, len(model.layers))
            layer = model.load_layer(index)
            if index in chosen:
                stats, _, _ = self._stats(index, layer)
                outputs = stats.collect(model, index, work)
                kept = {name: value.cpu() for name, value in stats.kept().items()}
                torch.save(kept, self._file(index))
                for batch, out in zip(work, outputs, strict=True):
                    batch.hidden = out
            elif index < last:
                for batch in work:
                    batch.hidden = model.run_layer(index, batch)
            for batch in self._measured:
                batch.hidden = model.run_layer(index, batch)
            model.drop_layer(index)
        self.report.progress(told("Looking at the records"), len(model.layers), len(model.layers))
        model.load_head()
        self.expected = [model.logits(batch)[0].float().log_softmax(-1).cpu() for batch in self._measured]

    def _file(self, index: int) -> Path:
        return self.work / f"gram-{index:03d}.pt"

    def _stats(self, index: int, layer: nn.Module) -> tuple[LayerStats, list[nn.Linear], list[Any]]:
        view = self.model.wrapper.get_layer_wrappers()[index]
        linears = [module for module in layer.modules() if isinstance(module, nn.Linear)]
        folds, _ = find_folds(view, self.model.wrapper.head_dim)
        return LayerStats(linears, folds), linears, folds

    def rounded(self, index: int, how: HowRounded) -> _Layer:
        """A chosen layer, rounded."""
        with torch.no_grad():
            if self.model.dtype == torch.float32:
                return self._rounded(index, how)
            with matrix_units():
                return self._rounded(index, how)

    def _rounded(self, index: int, how: HowRounded) -> _Layer:
        model, options = self.model, ALGORITHMS[how.algorithm].olive
        check = self.report.check_cancelled
        layer = model.load_layer(index)
        prefix = f"{model.prefix}.{index}."
        stats, linears, folds = self._stats(index, layer)
        names = {linear: self._names[id(linear)].removeprefix(prefix) for linear in linears}
        grids = {
            linear: Grid(how.bits_of(names[linear].rpartition(".")[2]), False, how.group_size, model.dtype)
            for linear in linears
        }
        master: Master = {linear: linear.weight.data.float() for linear in linears}
        matrices: dict[str, tuple[Rounded, Grid]] = {}
        if options["type"] == OURS:
            kept = torch.load(self._file(index), map_location=model.device, weights_only=True)
            stats.take(kept)
            view = model.wrapper.get_layer_wrappers()[index]
            if options.get("scale", True):
                for fold in folds:
                    self._fold(index, fold, master, stats, grids)
            for linear in linears:
                matrices[names[linear]] = (
                    round_matrix(
                        linear,
                        master[linear],
                        stats.gram(linear),
                        grids[linear],
                        view,
                        gptq=options.get("rounding") == "gptq",
                        clip=bool(options.get("clip", True)),
                        check=check,
                    ),
                    grids[linear],
                )
        else:
            for linear in linears:
                check()
                rounded = _kquant if options["type"] == "kquant" else _nearest
                matrices[names[linear]] = (rounded(master[linear], grids[linear]), grids[linear])
        packed = {f"{name}.weight" for name in matrices}
        others = {
            name: value.clone()
            for name, value in layer.state_dict().items()
            if name not in packed and value.is_floating_point()
        }
        model.drop_layer(index)
        return _Layer(matrices, others)

    def _fold(
        self, index: int, fold: Any, master: Master, stats: LayerStats, grids: Mapping[nn.Linear, Grid]
    ) -> None:
        gram, mean = stats.gram(fold.readers[0]), stats.mean(fold.readers[0])
        if gram is None or mean is None:
            return
        # Each matrix reads in one fold only, so no earlier one has changed these: the search depends on the grid.
        key = (index, fold.name, grids[fold.readers[0]])
        if key not in self._scales:
            choice = search_scales(
                torch.cat([master[reader] for reader in fold.readers]),
                gram,
                mean,
                grids[fold.readers[0]],
                share=fold.share,
                check=self.report.check_cancelled,
            )
            kept = choice.scales if choice.error < choice.plain else torch.ones_like(choice.scales)
            self._scales[key] = kept.cpu()
        wanted = self._scales[key].to(gram.device)
        if bool((wanted == 1).all()):
            return
        scales, _ = apply(fold, wanted, master, self.model.dtype)
        stats.rescale(fold.readers[0], scales)

    def measure(self, rounded: Mapping[int, _Layer]) -> Quality:
        """What the model is worth on the held-out rows with these layers in the place of its own."""
        model = self.model
        with torch.no_grad():
            for batch, hidden in zip(self._measured, self._first, strict=True):
                batch.hidden = hidden
            for index in range(len(model.layers)):
                self.report.check_cancelled()
                layer = model.load_layer(index)
                if index in rounded:
                    rounded[index].put_into(layer, model.device, model.compute)
                for batch in self._measured:
                    batch.hidden = model.run_layer(index, batch)
                model.drop_layer(index)
            logits = iter([model.logits(batch)[0].float().cpu() for batch in self._measured])
        return compare(self.expected, lambda row: next(logits), self.held_out, _Quiet(self.report))


def _nearest(weight: Tensor, grid: Grid) -> Rounded:
    return round_nearest(weight, None, grid, clip=False)


def _kquant(weight: Tensor, grid: Grid) -> Rounded:
    """As Olive's own pass does it, by its function."""
    from olive.passes.pytorch.kquant import kquant_find_qparams

    scale, zero = kquant_find_qparams(
        weight.to(grid.dtype), grid.width(weight.shape[1]), maxq=grid.top, minq=0, symmetric=False
    )
    scale, zero = scale.float(), zero.float()
    groups = weight.unflatten(-1, (scale.shape[-1], -1))
    return Rounded(grid.codes(groups, scale, zero).to(torch.uint8).flatten(-2), scale, zero)


def spread_layers(layers: int, counts: Sequence[int]) -> list[list[int]]:
    """For each of some counts, the smallest first and each twice the one before, so many layers at even distances.

    Those for a count are among those for the next.
    """
    count = min(layers, counts[-1])
    found = [sorted({(2 * at + 1) * layers // (2 * count) for at in range(count)})]
    for _ in counts[1:]:
        found.append(found[-1][1::2] or found[-1])
    return found[::-1]
