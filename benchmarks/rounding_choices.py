"""Which additions to AWQ with GPTQ's rounding bring a real model nearer to the float one: a table of docs/awq.md.

    python benchmarks/rounding_choices.py --model NAME=FOLDER [--model ...] [--groups 64] [--seeds 3]
                                          [--choices "gptaq;in order"] [--calibration travel,documentation]

Calibrates and measures as ``benchmarks/real_quality.py`` does. What is tried is not part of the program, unless
docs/awq.md says so. Runs on the GPU if there is one.
"""

from __future__ import annotations

import argparse
import json
import shutil
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

from benchmarks.real_quality import KINDS, Judge, Rows, cell, documentation, pieces, quantized, run, travel

GENERAL = Path(__file__).resolve().parent.parent / "data" / "general_text.txt"


@dataclass(frozen=True)
class Choice:
    """One line of the table.

    Attributes:
        in_order: a matrix is calibrated on what the rounded matrices before it in its own layer give, too.
        correction: the pass's own setting (GPTAQ).
        sweeps: passes of coordinate descent over the codes after GPTQ.
        scales: before each pass the groups' scales are solved for, given the codes.
        damping: GPTQ's, in place of the default.
        general: calibrate on the bundled general text as well.
        rows: how many rows to calibrate on, if there are as many.
        own: rows of text that the float model itself makes, calibrated on as well.
        learn: the pass's own setting (SignRound).
        turn_values: rotate each head's values, offline (QuaRot's R2).
        turn_stream: rotate what the layers hand on, offline (QuaRot's R1); no Gemma can be: norms stand behind its
            matrices.
        eight: share of the model's size that 8 bits may cost, for the matrices that gain most by them.
    """

    name: str
    method: str = "awq+gptq"
    in_order: bool = False
    correction: float = 0.0
    sweeps: int = 0
    scales: bool = False
    damping: float | None = None
    general: bool = False
    rows: int = 128
    own: int = 0
    learn: int = 0
    turn_values: bool = False
    turn_stream: bool = False
    eight: float = 0.0


CHOICES = (
    Choice("without correction"),
    Choice("in order", in_order=True),
    Choice("gptaq quarter", correction=0.25),
    Choice("gptaq half", correction=0.5),
    Choice("gptaq", correction=1.0),
    Choice("descent", sweeps=2),
    Choice("descent and scales", sweeps=2, scales=True),
    Choice("damping 0.05", damping=0.05),
    Choice("general text too", general=True),
    Choice("all rows", rows=1 << 20),
    Choice("its own text too", own=64),
    Choice("all rows and its own text", rows=1 << 20, own=64),
    Choice("all rows and general text", rows=1 << 20, general=True),
    Choice("all rows, gptaq quarter", rows=1 << 20, correction=0.25),
    Choice("all rows and general text, gptaq quarter", rows=1 << 20, general=True, correction=0.25),
    Choice("rotated values", turn_values=True),
    Choice("rotated", turn_values=True, turn_stream=True),
    Choice("rotated gptq", "gptq", turn_values=True, turn_stream=True),
    Choice("learnt from nearest", "awq", learn=200),
    Choice("learnt", learn=200),
    Choice("gptaq quarter learnt", correction=0.25, learn=200),
    Choice("5 % more", eight=0.05),
    Choice("10 % more", eight=0.10),
)


def orthogonal(size: int) -> Tensor:
    """A rotation that mixes all channels: Hadamard's with random signs where there is one, else any."""
    picker = torch.Generator().manual_seed(0)
    if size & (size - 1):
        return torch.linalg.qr(torch.randn(size, size, generator=picker, dtype=torch.float64))[0]
    made = torch.ones(1, 1, dtype=torch.float64)
    while made.shape[0] < size:
        made = torch.cat([torch.cat([made, made], 1), torch.cat([made, -made], 1)])
    signs = torch.randint(0, 2, (size,), generator=picker).double() * 2 - 1
    return signs.unsqueeze(1) * made / size**0.5


def can_turn(folder: Path) -> bool:
    """Whether what the layers hand on can be rotated: no norm stands behind a matrix that writes it."""
    from core.model.weights import tensor_entries

    return not any("pre_feedforward_layernorm" in name for name in tensor_entries(folder))


def rotated(folder: Path, made: Path, choice: Choice) -> Path:
    """The same float model with its values, or all that its layers hand on, in other coordinates."""
    from core.olive.checkpoint import load_model
    from core.quantize.awq_folds import norm_offset

    model: Any = load_model(folder, dtype=torch.float32)
    inner, config = model.model, model.config
    shutil.rmtree(made, ignore_errors=True)

    def put(module: Any, value: Tensor) -> None:
        module.weight.data = value.float()

    def write(module: Any, turn: Tensor) -> None:
        put(module, turn.T @ module.weight.double())
        if module.bias is not None:
            module.bias.data = (turn.T @ module.bias.double()).float()

    def read(norm: Any, modules: Sequence[Any], turn: Tensor) -> None:
        offset = norm_offset(norm)
        for module in modules:
            put(module, (module.weight.double() * (norm.weight.double() + offset)) @ turn)
        norm.weight.data = torch.full_like(norm.weight, 1 - offset)

    if choice.turn_stream:
        turn = orthogonal(config.hidden_size)
        if config.tie_word_embeddings:
            model.lm_head.weight = nn.Parameter(inner.embed_tokens.weight.data.clone())
            config.tie_word_embeddings = False
        for layer in inner.layers:
            attention, mlp = layer.self_attn, layer.mlp
            read(layer.input_layernorm, [attention.q_proj, attention.k_proj, attention.v_proj], turn)
            read(layer.post_attention_layernorm, [mlp.gate_proj, mlp.up_proj], turn)
            write(attention.o_proj, turn)
            write(mlp.down_proj, turn)
        read(inner.norm, [model.lm_head], turn)
        put(inner.embed_tokens, inner.embed_tokens.weight.double() @ turn)
    if choice.turn_values:
        for layer in inner.layers:
            value, out = layer.self_attn.v_proj, layer.self_attn.o_proj
            turn = orthogonal(layer.self_attn.head_dim)
            size = turn.shape[0]
            put(value, (turn.T @ value.weight.double().unflatten(0, (-1, size))).flatten(0, 1))
            if value.bias is not None:
                value.bias.data = (value.bias.double().unflatten(0, (-1, size)) @ turn).flatten().float()
            put(out, (out.weight.double().unflatten(1, (-1, size)) @ turn).flatten(1))
    model.to(torch.bfloat16).save_pretrained(made)
    for file in folder.iterdir():
        if not (made / file.name).exists():
            shutil.copyfile(file, made / file.name)
    return made


def own_text(folder: Path, tokenizer: Any, count: int, seed: int) -> Rows:
    """Rows of up to 256 tokens that the float model says from nothing."""
    from core.olive.checkpoint import load_model

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = load_model(folder).to(device)
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    torch.manual_seed(seed)
    with torch.inference_mode():
        made = model.generate(
            torch.full((count, 1), begin, device=device),
            attention_mask=torch.ones(count, 1, dtype=torch.long, device=device),
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            max_new_tokens=255,
            min_new_tokens=255,
        )
    return [row.tolist() for row in made]


def sensitive(folder: Path, group: int, rows: Rows, work: Path) -> list[tuple[list[str], float, int]]:
    """For each input the matrices that read it, the KL that they alone make in 4 bits, and their weights."""
    from core.olive.checkpoint import load_model, unpacked_weight

    # GPTQ by itself moves no scales, so that its matrices can stand in the float model.
    made, _ = quantized(folder, "gptq", group, rows, work)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    plain, rounded = (load_model(each, dtype=torch.float32).to(device) for each in (folder, made))
    few: Rows = []
    while sum(map(len, few)) < 2048 and len(few) < len(rows):
        few.append(rows[len(few)])
    ids = torch.zeros(len(few), max(map(len, few)), dtype=torch.long, device=device)
    real = torch.zeros_like(ids, dtype=torch.bool)
    for number, row in enumerate(few):
        ids[number, : len(row)] = torch.tensor(row, device=device)
        real[number, : len(row)] = True

    def logs() -> Tensor:
        # What pads stands behind what is measured, which does not see it.
        found: Tensor = plain(input_ids=ids, use_cache=False).logits[real].float().log_softmax(-1)
        return found

    # Olive gives queries, keys and values the same bits.
    together: dict[str, list[str]] = {}
    for name, module in plain.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            end = name.rsplit(".", 1)[-1]
            key = name.removesuffix(end) if end in ("q_proj", "k_proj", "v_proj") else name
            together.setdefault(key, []).append(name)
    found = []
    with torch.inference_mode():
        want = logs()
        for names in together.values():
            modules = [plain.get_submodule(name) for name in names]
            before = [module.weight.data for module in modules]
            for name, module in zip(names, modules, strict=True):
                module.weight.data = unpacked_weight(rounded.get_submodule(name), torch.float32)
            far = (want.exp() * (want - logs())).sum(-1).mean().item()
            for module, weight in zip(modules, before, strict=True):
                module.weight.data = weight
            found.append((names, far, sum(weight.numel() for weight in before)))
    return found


def worth_eight_bits(folder: Path, found: list[tuple[list[str], float, int]], share: float) -> list[str]:
    """The matrices to give 8 bits: most KL for each weight first, as long as they fit into ``share`` of the size."""
    left = share * sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    chosen: list[str] = []
    for names, _, weights in sorted(found, key=lambda each: -each[1] / each[2]):
        if weights / 2 <= left:
            left -= weights / 2
            chosen += names
    return chosen


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
def tried(choice: Choice) -> Iterator[None]:
    """Within it, quantizing does as ``choice`` says."""
    from olive.common.utils import set_attr

    from core.algorithms import ALGORITHMS
    from core.olive.checkpoint import store
    from core.quantize import awq
    from core.quantize.awq_folds import find_folds

    def inputs(run: Any, index: int, batch: Any, wanted: nn.Linear) -> Tensor:
        seen = []

        def look(linear: nn.Linear, given: tuple[Any, ...]) -> None:
            seen.append(given[0].flatten(0, -2).index_select(0, batch.real))

        hook = wanted.register_forward_pre_hook(look)
        try:
            run.model.run_layer(index, batch)
        finally:
            hook.remove()
        return seen[0].float()

    def layer_of(run: Any, index: int, work: Any) -> None:
        model = run.model
        layer = model.load_layer(index)
        view = model.wrapper.get_layer_wrappers()[index]
        linears = [module for module in layer.modules() if isinstance(module, nn.Linear)]
        grids = {linear: run._grid(linear) for linear in linears}
        damping = choice.damping or run.config.damp_percent
        folds, _ = find_folds(view, model.wrapper.head_dim)
        stats = awq.LayerStats(linears, folds, drifts=choice.correction > 0)
        firsts = list(dict.fromkeys(stats._of.values()))
        outputs = stats.collect(model, index, work)
        master = {linear: linear.weight.data.float() for linear in linears}
        for fold in folds if run.config.scale else ():
            run._fold(fold, index, work[0], outputs[0], master, stats, grids)
        made: dict[nn.Linear, Any] = {}
        for first in firsts:
            gram = stats.gram(first)
            assert gram is not None
            if choice.in_order and first is not firsts[0]:
                gram = torch.zeros_like(gram)
                for batch in work:
                    got = inputs(run, index, batch, first)
                    gram.addmm_(got.T, got)
            for linear in [each for each in linears if stats._of[each] is first]:
                run.report.check_cancelled()
                weight = run._wanted(linear, master, stats) if choice.correction else master.pop(linear)
                grid = grids[linear]
                rounded = awq.round_matrix(
                    linear, weight, gram, grid, view, gptq=run.gptq, clip=run.config.clip, damping=damping
                )
                if choice.sweeps:
                    rounded = descended(weight, gram, grid, rounded, choice, damping)
                made[linear] = rounded
                if choice.in_order:
                    linear.weight.data = rounded.weight(grid).to(linear.weight.dtype)
        for linear, rounded in made.items():
            set_attr(model.model, run.names[id(linear)], run._packed(rounded, linear))
        store(layer, model.dtype)
        store(layer, model.compute, scales=True)
        for batch, out in zip(work, outputs, strict=True):
            if choice.correction and index == 0:
                batch.exact = out
            batch.hidden = model.run_layer(index, batch)
        store(layer, model.dtype, scales=True)
        layer.to("cpu")

    algorithm = ALGORITHMS[choice.method]
    asked = algorithm._replace(
        olive={**algorithm.olive, "correction": choice.correction, "learn": choice.learn}
    )
    plain = not (choice.in_order or choice.sweeps or choice.damping)
    with (
        mock.patch.dict(ALGORITHMS, {choice.method: asked}),
        mock.patch.object(awq._Run, "_layer", awq._Run._layer if plain else layer_of),
    ):
        yield


def measure(name: str, folder: Path, options: argparse.Namespace) -> None:
    """All choices on one model; prints its tables, and on the error output each seed's figures as they come."""
    from transformers import AutoTokenizer

    from core.quantize import stage

    tokenizer = AutoTokenizer.from_pretrained(folder)
    whole = {"documentation": documentation(tokenizer), "travel": travel(tokenizer)}
    few = options.held_out
    part = {"documentation": few, "travel": few and 8 * few}
    texts = {kind: replace(each, held_out=each.held_out[: part[kind]]) for kind, each in whole.items()}
    judge = Judge(folder, texts)
    general = pieces(tokenizer, [GENERAL.read_text(encoding="utf-8")])
    named = options.choices.split(";")
    chosen = [each for each in CHOICES if not options.choices or each.name in named]
    turned: dict[tuple[bool, bool], Path] = {}
    for calibration in options.calibration.split(","):
        for group in map(int, options.groups.split(",")):
            print(f"\n**{name}**, group {group}, calibrated on {calibration}, {options.seeds} seeds\n")
            print("| choice | KL, documentation | KL, travel | same likeliest token | time | MB |")
            print("|---|---|---|---|---|---|", flush=True)
            for choice in chosen:
                if choice.turn_stream and not can_turn(folder):
                    print(f"| {choice.name} | norms stand behind its matrices | | | | |", flush=True)
                    continue
                found = []
                for seed in range(options.first_seed, options.first_seed + options.seeds):
                    rows = texts[calibration].draw(seed, choice.rows) + (general if choice.general else [])
                    if choice.own:
                        rows += own_text(folder, tokenizer, choice.own, seed)
                    source, eight = folder, []
                    if choice.turn_values or choice.turn_stream:
                        key = (choice.turn_values, choice.turn_stream)
                        if key not in turned:
                            turned[key] = rotated(folder, options.work / f"rotated{len(turned)}", choice)
                            exact = {kind: far for kind, (far, _) in judge.judge(turned[key]).items()}
                            print(f"{choice.name}, float: {exact}", file=sys.stderr, flush=True)
                        source = turned[key]
                    if choice.eight:
                        by = sensitive(folder, group, rows, options.work / "run")
                        made, _ = quantized(folder, "rtn", group, rows, options.work / "run")
                        eight = worth_eight_bits(made, by, choice.eight)
                        print(f"{choice.name}: {eight}", file=sys.stderr, flush=True)
                    with tried(choice), mock.patch.object(stage, "eight_bit_layers", lambda *_, e=eight: e):
                        made, seconds = quantized(source, choice.method, group, rows, options.work / "run")
                    size = sum(file.stat().st_size for file in made.glob("*.safetensors")) / 1e6
                    found.append((judge.judge(made), seconds, size))
                    line = {
                        "model": name,
                        "group": group,
                        "on": calibration,
                        "choice": choice.name,
                        "seed": seed,
                    }
                    far = {kind: each[0] for kind, each in found[-1][0].items()}
                    print(
                        json.dumps({**line, **far, "seconds": seconds, "MB": size}),
                        file=sys.stderr,
                        flush=True,
                    )
                kls = (cell([each[kind][0] for each, *_ in found]) for kind in KINDS)
                same = (statistics.mean(each[kind][1] for each, *_ in found) for kind in KINDS)
                print(
                    f"| {choice.name} | {' | '.join(kls)} | {' and '.join(f'{100 * each:.0f} %' for each in same)} |"
                    f" {statistics.median(seconds for _, seconds, _ in found):.0f} s |"
                    f" {statistics.mean(size for *_, size in found):.1f} |",
                    flush=True,
                )


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--groups", default="64")
    parser.add_argument("--choices", default="", help="names of lines, with semicolons; all")
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
