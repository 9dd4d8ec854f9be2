"""Which additions to AWQ with GPTQ's rounding bring a real model nearer to the float one: a table of docs/awq.md.

    python benchmarks/rounding_choices.py --model NAME=FOLDER [--model ...] [--groups 64] [--seeds 3]
                                          [--choices "gptaq,in order"] [--calibration travel,documentation]

Calibrates and measures as ``benchmarks/real_quality.py`` does. What is tried is not part of the program, unless
docs/awq.md says so. Runs on the GPU if there is one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn

from benchmarks.real_quality import KINDS, Judge, Rows, cell, documentation, quantized, run, travel

GENERAL = Path(__file__).resolve().parent.parent / "data" / "general_text.txt"


@dataclass(frozen=True)
class Choice:
    """One line of the table.

    Attributes:
        in_order: a matrix is calibrated on what the rounded matrices before it in its own layer give, too.
        correct: share of the earlier layers' errors that each matrix makes up for (GPTAQ).
        sweeps: passes of coordinate descent over the codes after GPTQ.
        scales: before each pass the groups' scales are solved for, given the codes.
        damping: GPTQ's, in place of the default.
        general: calibrate on the bundled general text as well.
    """

    name: str
    method: str = "awq+gptq"
    in_order: bool = False
    correct: float = 0.0
    sweeps: int = 0
    scales: bool = False
    damping: float | None = None
    general: bool = False


CHOICES = (
    Choice("as it is"),
    Choice("in order", in_order=True),
    Choice("gptaq quarter", correct=0.25),
    Choice("gptaq half", correct=0.5),
    Choice("gptaq", correct=1.0),
    Choice("in order gptaq half", in_order=True, correct=0.5),
    Choice("in order gptaq", in_order=True, correct=1.0),
    Choice("descent", sweeps=2),
    Choice("descent and scales", sweeps=2, scales=True),
    Choice("in order gptaq half descent and scales", in_order=True, correct=0.5, sweeps=2, scales=True),
    Choice("damping 0.05", damping=0.05),
    Choice("general text too", general=True),
)


def descended(weight: Tensor, gram: Tensor, grid: Any, rounded: Any, choice: Choice, damping: float) -> Any:
    """A rounded matrix after passes of coordinate descent on its codes."""
    from core.quantize.awq_math import Rounded
    from core.quantize.gptq import BLOCK

    inputs = weight.shape[1]
    width = grid.width(inputs)
    gram = gram.clone()
    mean = gram.diagonal().mean()
    gram.diagonal().add_(damping * mean)
    order = torch.argsort(gram.diagonal(), descending=True, stable=True)
    group = order // width
    codes, scale, zero = rounded.codes.float(), rounded.scale, rounded.zero
    for _ in range(choice.sweeps):
        if choice.scales:
            scale = solved_scales(weight, gram, grid, codes, scale, zero)
        made = grid.values(codes.unflatten(-1, (-1, width)), scale, zero).flatten(-2)
        error = (made - weight)[:, order]
        turned = gram[order][:, order]
        pivots = turned.diagonal()
        mixed = codes[:, order].T.contiguous()
        scales, zeros = scale[:, group].T.contiguous(), zero[:, group].T.contiguous()
        for first in range(0, inputs, BLOCK):
            part = slice(first, min(first + BLOCK, inputs))
            push = (error @ turned[:, part]).T / pivots[part].unsqueeze(1)
            old = (mixed[part] - zeros[part]) * scales[part]
            wanted = old - push
            ratio = turned[part, part] / pivots[part]
            for at in range(wanted.shape[0]):
                code = (wanted[at] / scales[first + at] + zeros[first + at]).round_().clamp_(0, grid.top)
                change = (code - zeros[first + at]) * scales[first + at] - old[at]
                wanted[at + 1 :].addr_(ratio[at, at + 1 :], change, alpha=-1)
                mixed[first + at] = code
                error[:, first + at] += change
        codes = torch.empty_like(codes).index_copy_(1, order, mixed.T)
    return Rounded(codes.to(torch.uint8), scale, zero)


def solved_scales(
    weight: Tensor, gram: Tensor, grid: Any, codes: Tensor, scale: Tensor, zero: Tensor
) -> Tensor:
    """The scales of a row's groups that leave the smallest output error with these codes, as they are stored."""
    width = weight.shape[1] // scale.shape[1]
    found = scale.clone()
    step = max(1, (1 << 26) // (weight.shape[1] * scale.shape[1]))
    for first in range(0, weight.shape[0], step):
        rows = slice(first, first + step)
        units = codes[rows].unflatten(-1, (-1, width)) - zero[rows].unsqueeze(-1)
        blocks = gram.unflatten(0, (-1, width))
        pushed = torch.einsum("rgw,gwn->rgn", units, blocks)
        square = torch.einsum("rgn,rn->rgn", pushed, units.flatten(-2)).unflatten(-1, (-1, width)).sum(-1)
        right = (pushed * weight[rows].unsqueeze(1)).sum(-1)
        eye = torch.eye(square.shape[-1], device=square.device) * square.diagonal(dim1=-2, dim2=-1).mean()
        solved = torch.linalg.solve(square + 1e-6 * eye, right)
        tried = solved.to(grid.dtype).float()
        tried = torch.where(tried > 0, tried, scale[rows])

        def far(values: Tensor, square: Tensor = square, right: Tensor = right) -> Tensor:
            return torch.einsum("rg,rgh,rh->r", values, square, values) - 2 * (values * right).sum(-1)

        better = far(tried) < far(scale[rows])
        found[rows] = torch.where(better.unsqueeze(1), tried, scale[rows])
    return found


@contextmanager
def exact_products() -> Iterator[None]:
    """Products in float32 even where the pass lets a GPU use TF32: what is divided by small numbers later."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@contextmanager
def tried(choice: Choice) -> Iterator[None]:
    """Within it, quantizing does as ``choice`` says."""
    from olive.common.utils import set_attr

    from core.olive.checkpoint import store
    from core.quantize import awq
    from core.quantize.awq_folds import find_folds

    class Stats(awq.LayerStats):
        """Remembers by what each input was divided."""

        def __init__(self, linears: Sequence[nn.Linear], folds: Sequence[Any]) -> None:
            super().__init__(linears, folds)
            self.scales: dict[nn.Linear, Tensor] = {}

        def rescale(self, linear: nn.Linear, scales: Tensor) -> None:
            super().rescale(linear, scales)
            self.scales[linear] = scales

    def inputs(
        run: Any, index: int, batch: Any, wanted: Sequence[nn.Linear]
    ) -> tuple[Tensor, dict[Any, Tensor]]:
        seen: dict[Any, Tensor] = {}

        def look(linear: nn.Linear, given: tuple[Any, ...]) -> None:
            seen[linear] = given[0].flatten(0, -2).index_select(0, batch.real)

        hooks = [each.register_forward_pre_hook(look) for each in wanted]
        try:
            return run.model.run_layer(index, batch), seen
        finally:
            for hook in hooks:
                hook.remove()

    def layer_of(run: Any, index: int, work: Any) -> None:
        model = run.model
        layer = model.load_layer(index)
        view = model.wrapper.get_layer_wrappers()[index]
        linears = [module for module in layer.modules() if isinstance(module, nn.Linear)]
        grids = {linear: run._grid(linear) for linear in linears}
        damping = choice.damping or run.config.damp_percent
        folds, _ = find_folds(view, model.wrapper.head_dim)
        stats = Stats(linears, folds)
        firsts = list(dict.fromkeys(stats._of.values()))
        if index == 0:
            run.floats = [batch.hidden for batch in work]
        float_inputs = []
        if choice.correct:
            for number, batch in enumerate(work):
                quantized_input, batch.hidden = batch.hidden, run.floats[number]
                run.floats[number], seen = inputs(run, index, batch, firsts)
                float_inputs.append(seen)
                batch.hidden = quantized_input
        outputs = stats.collect(model, index, work)
        master = {linear: linear.weight.data.float() for linear in linears}
        for fold in folds if run.config.scale else ():
            run._fold(fold, index, work[0], outputs[0], master, stats, grids)
        packed = {}
        for first in firsts:
            gram, moved = stats.gram(first), None
            assert gram is not None
            if choice.correct or (choice.in_order and first is not firsts[0]):
                gram, moved = torch.zeros_like(gram), torch.zeros_like(gram)
                for number, batch in enumerate(work):
                    got = inputs(run, index, batch, [first])[1][first].float()
                    gram.addmm_(got.T, got)
                    if choice.correct:
                        want = float_inputs[number][first].float()
                        if first in stats.scales:
                            want = want / stats.scales[first]
                        with exact_products():
                            moved.addmm_(got.T, want - got)
            for linear in [each for each in linears if stats._of[each] is first]:
                run.report.check_cancelled()
                weight = master.pop(linear)
                if choice.correct and moved is not None:
                    damped = gram.clone()
                    damped.diagonal().add_(damping * gram.diagonal().mean())
                    with exact_products():
                        factor = torch.linalg.cholesky(damped)
                        weight = weight + choice.correct * torch.cholesky_solve(moved @ weight.T, factor).T
                grid = grids[linear]
                rounded = awq.round_matrix(
                    linear, weight, gram, grid, view, gptq=run.gptq, clip=run.config.clip, damping=damping
                )
                if choice.sweeps:
                    rounded = descended(weight, gram, grid, rounded, choice, damping)
                packed[linear] = run._packed(rounded, linear)
                if choice.in_order:
                    linear.weight.data = rounded.weight(grid).to(linear.weight.dtype)
        for linear, quant in packed.items():
            set_attr(model.model, run.names[id(linear)], quant)
        store(layer, model.dtype)
        store(layer, model.compute, scales=True)
        for batch in work:
            batch.hidden = model.run_layer(index, batch)
        store(layer, model.dtype, scales=True)
        layer.to("cpu")

    plain = not (choice.in_order or choice.correct or choice.sweeps or choice.damping)
    with mock.patch.object(awq._Run, "_layer", awq._Run._layer if plain else layer_of):
        yield


def general_text(tokenizer: Any) -> Rows:
    """The bundled general text in rows of 512 tokens."""
    ids = tokenizer(GENERAL.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
    return [ids[start : start + 512] for start in range(0, len(ids), 512)]


def measure(name: str, folder: Path, options: argparse.Namespace) -> None:
    """All choices on one model; prints its tables, a line for each seed as it comes."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    whole = {"documentation": documentation(tokenizer), "travel": travel(tokenizer)}
    few = options.held_out
    part = {"documentation": few, "travel": few and 8 * few}
    texts = {kind: replace(each, held_out=each.held_out[: part[kind]]) for kind, each in whole.items()}
    judge = Judge(folder, texts)
    chosen = [each for each in CHOICES if not options.choices or each.name in options.choices.split(",")]
    for calibration in options.calibration.split(","):
        for group in map(int, options.groups.split(",")):
            print(f"\n**{name}**, group {group}, calibrated on {calibration}, {options.seeds} seeds\n")
            print("| choice | KL, documentation | KL, travel | same likeliest token | time |")
            print("|---|---|---|---|---|", flush=True)
            for choice in chosen:
                found = []
                for seed in options.first_seed + torch.arange(options.seeds):
                    rows = texts[calibration].draw(int(seed))
                    rows += general_text(tokenizer) if choice.general else []
                    with tried(choice):
                        made, seconds = quantized(folder, choice.method, group, rows, options.work / "run")
                    found.append((judge.judge(made), seconds))
                kls = (cell([each[kind][0] for each, _ in found]) for kind in KINDS)
                same = (statistics.mean(each[kind][1] for each, _ in found) for kind in KINDS)
                print(
                    f"| {choice.name} | {' | '.join(kls)} | {' and '.join(f'{100 * each:.0f} %' for each in same)} |"
                    f" {statistics.median(seconds for _, seconds in found):.0f} s |",
                    flush=True,
                )


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--groups", default="64")
    parser.add_argument("--choices", default="", help="names of lines, with commas; all")
    parser.add_argument("--calibration", default=",".join(KINDS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument(
        "--held-out", type=int, help="documents, and eighths of the short rows, to measure on; all"
    )
    parser.add_argument("--work", type=Path, default=Path("/tmp/olivepress-rounding-choices"))
    run(parser.parse_args(), measure)


if __name__ == "__main__":
    main()
