"""AWQ's arithmetic against the definitions it stands for."""

from __future__ import annotations

import itertools

import pytest
import torch
from olive.common.quant.utils import WeightQuantizer

from core.errors import Cancelled
from core.quantize import awq_math
from core.quantize.awq_math import (
    Grid,
    add_to_gram,
    candidate_scales,
    complete_gram,
    diagonal_blocks,
    output_error,
    round_nearest,
    search_ranges,
    search_scales,
    weight_magnitude,
)
from core.quantize.gptq import made_up_for, round_gptq


@pytest.fixture
def numbers() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def correlated(tokens: int, width: int, numbers: torch.Generator) -> torch.Tensor:
    mix = torch.randn(width, width, generator=numbers) / width**0.5
    return torch.randn(tokens, width, generator=numbers) @ mix


def salient(width: int, numbers: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs with three channels a hundred times as large as the others, and a matrix that reads them."""
    inputs = torch.randn(256, width, generator=numbers)
    inputs[:, [3, 17, 40]] *= 100
    return inputs, torch.randn(48, width, generator=numbers)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("group", [16, 32, -1])
def test_plain_rounding_is_that_of_olive(
    bits: int, symmetric: bool, group: int, numbers: torch.Generator
) -> None:
    weight = torch.randn(24, 64, generator=numbers)
    olive = WeightQuantizer(bits=bits, symmetric=symmetric, group_size=group)
    assert torch.allclose(
        Grid(bits, symmetric, group).rounded(weight), olive.fake_quantize(weight), atol=1e-6
    )


def test_a_group_by_hand() -> None:
    # From -1 to 2 in 15 steps of 0.2: zero is code 5, 0.31 lies between 1.55 steps, so at code 7 (0.4).
    weight = torch.tensor([[-1.0, 2.0, 0.0, 0.31]])
    made = round_nearest(weight, None, Grid(4, False, 4), clip=False)
    assert made.codes.tolist() == [[0, 15, 5, 7]]
    assert made.scale.item() == pytest.approx(0.2)
    assert made.zero.item() == 5
    assert made.weight(Grid(4, False, 4)).tolist()[0] == pytest.approx([-1.0, 2.0, 0.0, 0.4])


def test_a_group_of_zeros_and_of_one_sign_stay_what_they_are() -> None:
    grid = Grid(4, False, 16)
    weight = torch.stack([torch.zeros(16), torch.full((16,), 0.75), torch.full((16,), -3.0)])
    assert torch.allclose(grid.rounded(weight), weight, atol=1e-6)


def test_scales_are_rounded_to_their_type_before_anything_is_measured(numbers: torch.Generator) -> None:
    grid = Grid(4, False, 32, torch.bfloat16)
    made = round_nearest(torch.randn(8, 64, generator=numbers), None, grid, clip=False)
    assert torch.equal(made.scale, made.scale.to(torch.bfloat16).float())


@pytest.mark.parametrize("inputs", [1, 96, 192, 500])
def test_a_gram_matrix_added_up_by_halves_is_whole(numbers: torch.Generator, inputs: int) -> None:
    seen = torch.randn(300, inputs, generator=numbers)
    gram = torch.zeros(inputs, inputs)
    for part in seen.split(128):
        add_to_gram(gram, part)
    complete_gram(gram)
    torch.testing.assert_close(gram, seen.T @ seen, rtol=1e-4, atol=1e-3)
    assert torch.equal(gram, gram.T)


def test_the_search_in_16_bits_finds_the_same_scales(
    numbers: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = torch.randn(96, 128, generator=numbers)
    seen = torch.randn(400, 128, generator=numbers) * torch.logspace(-1, 1, 128)
    gram, mean, found = seen.T @ seen, seen.abs().mean(0), []
    for quick in (False, True):
        monkeypatch.setattr(awq_math, "multiplies_bf16", lambda quick=quick: quick)
        found.append(search_scales(weight, gram, mean, Grid(4, group_size=32)))
    exact, short = found
    assert short.error == pytest.approx(exact.error, rel=5e-3)
    torch.testing.assert_close(short.scales, exact.scales)


def test_the_gram_error_is_the_error_of_the_outputs(numbers: torch.Generator) -> None:
    inputs = correlated(200, 32, numbers)
    change = torch.randn(12, 32, generator=numbers)
    assert output_error(change, inputs.T @ inputs).item() == pytest.approx(
        (inputs @ change.T).square().sum().item(), rel=1e-4
    )


def test_the_kept_exponent_is_the_best_of_the_grid(numbers: torch.Generator) -> None:
    inputs, weight = salient(64, numbers)
    grid = Grid(4, False, 32)
    choice = search_scales(weight, inputs.T @ inputs, inputs.abs().mean(0), grid, steps=8)
    own, errors = weight_magnitude(weight, 32), {}
    for duo, step in itertools.product((False, True), range(9)):
        scales = candidate_scales(inputs.abs().mean(0), own, step / 8, duo)
        rounded = grid.rounded(weight * scales)
        errors[step / 8, duo] = (((inputs / scales) @ rounded.T) - inputs @ weight.T).square().sum().item()
    best = min(errors, key=errors.__getitem__)
    assert (choice.ratio, choice.duo) == best
    assert choice.error == pytest.approx(errors[best], rel=1e-2)
    assert choice.plain == pytest.approx(errors[0.0, False], rel=1e-2)


def test_salient_channels_get_larger_scales_and_the_error_falls(numbers: torch.Generator) -> None:
    inputs, weight = salient(64, numbers)
    choice = search_scales(weight, inputs.T @ inputs, inputs.abs().mean(0), Grid(4, False, 64))
    large = choice.scales[[3, 17, 40]]
    assert large.min() > 2 * choice.scales.median()
    assert choice.error < 0.5 * choice.plain


def test_without_salient_channels_scaling_never_does_worse_than_none(numbers: torch.Generator) -> None:
    inputs, weight = torch.randn(256, 32, generator=numbers), torch.randn(16, 32, generator=numbers)
    choice = search_scales(weight, inputs.T @ inputs, inputs.abs().mean(0), Grid(4, False, 32))
    assert choice.error <= choice.plain


def test_dead_and_silent_channels_give_finite_scales(numbers: torch.Generator) -> None:
    inputs, weight = salient(64, numbers)
    inputs[:, 5] = 0
    weight[:, 9] = 0
    choice = search_scales(weight, inputs.T @ inputs, inputs.abs().mean(0), Grid(4, False, 32))
    assert torch.isfinite(choice.scales).all()
    assert (choice.scales > 0).all()


def test_diagonal_blocks_are_the_blocks_on_the_diagonal(numbers: torch.Generator) -> None:
    gram = torch.randn(48, 48, generator=numbers)
    blocks = diagonal_blocks(gram, 16)
    for number in range(3):
        part = slice(16 * number, 16 * number + 16)
        assert torch.equal(blocks[number], gram[part, part])


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_searched_range_is_never_worse_than_the_whole_one(
    symmetric: bool, numbers: torch.Generator
) -> None:
    inputs = correlated(300, 64, numbers)
    weight = torch.randn(20, 64, generator=numbers)
    weight[:, ::16] *= 6  # one outlier a group, which clipping may cut
    grid = Grid(4, symmetric, 16)
    blocks = diagonal_blocks(inputs.T @ inputs, 16)
    groups = weight.unflatten(-1, (-1, 16)).transpose(0, 1).contiguous()

    def error(scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
        change = grid.values(grid.codes(groups, scale, zero), scale, zero) - groups
        return torch.einsum("gri,gij,grj->gr", change, blocks, change)

    whole = error(*grid.parameters(*grid.ranges(groups)))
    found = error(*search_ranges(groups, blocks, grid))
    assert (found <= whole * (1 + 1e-5) + 1e-6).all()
    assert found.sum() < 0.95 * whole.sum()


def test_both_ends_of_a_range_shrink_on_their_own() -> None:
    # An outlier on the upper end that no input ever meets: the upper end comes down, the lower stays.
    weight = torch.linspace(-1, 1, 16).repeat(1, 1, 1)
    weight[..., -1] = 1.9
    blocks = torch.eye(16).unsqueeze(0)
    blocks[0, -1, -1] = 1e-6
    grid = Grid(4, False, 16)
    scale, zero = search_ranges(weight, blocks, grid)
    low, high = -zero * scale, (15 - zero) * scale
    assert high.item() < 1.5
    assert low.item() == pytest.approx(-1, abs=0.15)


def test_gptq_does_better_than_rounding_where_inputs_are_correlated(numbers: torch.Generator) -> None:
    inputs = correlated(400, 64, numbers)
    weight = torch.randn(32, 64, generator=numbers)
    gram, grid = inputs.T @ inputs, Grid(4, False, 16)
    plain = output_error(round_nearest(weight, gram, grid, clip=False).weight(grid) - weight, gram)
    spread = output_error(round_gptq(weight, gram, grid).weight(grid) - weight, gram)
    assert spread < 0.6 * plain


def test_gptq_on_independent_inputs_is_plain_rounding(numbers: torch.Generator) -> None:
    weight, grid = torch.randn(8, 32, generator=numbers), Grid(4, False, 16)
    spread = round_gptq(weight, torch.eye(32), grid)
    assert torch.equal(spread.codes, round_nearest(weight, None, grid, clip=False).codes)


def test_gptq_bears_inputs_that_are_never_used_and_too_few_rows(numbers: torch.Generator) -> None:
    inputs = torch.randn(5, 32, generator=numbers)  # rank 5 of 32
    inputs[:, 4] = 0
    grid = Grid(4, False, 16)
    made = round_gptq(torch.randn(8, 32, generator=numbers), inputs.T @ inputs, grid)
    assert torch.isfinite(made.weight(grid)).all()


def test_gptq_refuses_inputs_that_are_not_finite() -> None:
    gram = torch.full((16, 16), float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        round_gptq(torch.ones(2, 16), gram, Grid(4, False, 16))


def test_weights_make_up_for_what_their_inputs_have_lost(numbers: torch.Generator) -> None:
    float_inputs = correlated(400, 64, numbers)
    float_inputs[:, 5] = 0
    inputs = float_inputs + 0.3 * correlated(400, 64, numbers)
    inputs[:, 9] = inputs[:, 5] = 0  # a channel that rounding has silenced, and one that never spoke
    weight = torch.randn(32, 64, generator=numbers)
    gram, drift = inputs.T @ inputs, inputs.T @ (float_inputs - inputs)

    def far(share: float) -> float:
        made = made_up_for(weight, gram, drift, share)
        return float((inputs @ made.T - float_inputs @ weight.T).square().sum())

    best = torch.linalg.lstsq(inputs, float_inputs @ weight.T, driver="gelsd")
    least = (inputs @ best.solution - float_inputs @ weight.T).square().sum().item()
    assert far(0.0) > 1.2 * far(0.25) > 1.2 * far(0.5)
    assert least <= far(1.0) < 1.1 * least
    assert torch.equal(made_up_for(weight, gram, drift, 0.0), weight)


def test_what_is_not_finite_cannot_be_made_up_for() -> None:
    gram = torch.eye(16)
    for inputs, drift in ((gram * float("nan"), gram), (gram, gram * float("inf"))):
        with pytest.raises(ValueError, match="not finite"):
            made_up_for(torch.ones(2, 16), inputs, drift, 0.25)


def test_a_search_stops_between_candidates(numbers: torch.Generator) -> None:
    inputs, weight = salient(64, numbers)
    calls = iter(range(5))

    def check() -> None:
        if next(calls) == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        search_scales(weight, inputs.T @ inputs, inputs.abs().mean(0), Grid(4, False, 32), check=check)
    assert next(calls) == 4


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("width", [16, 32, 64, 128])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_kernel_finds_ranges_as_good_as_torch_does(
    width: int, symmetric: bool, dtype: torch.dtype, numbers: torch.Generator
) -> None:
    inputs, weight = correlated(600, 256, numbers), torch.randn(100, 256, generator=numbers)
    blocks, grid = diagonal_blocks(inputs.T @ inputs, width), Grid(4, symmetric, width, dtype)
    groups = weight.unflatten(-1, (-1, width)).transpose(0, 1)

    def error(scale: torch.Tensor, zero: torch.Tensor) -> float:
        difference = grid.values(grid.codes(groups, scale, zero), scale, zero) - groups
        return float((torch.bmm(difference, blocks) * difference).sum())

    there = search_ranges(groups.cuda(), blocks.cuda(), grid)
    found = error(*(each.cpu() for each in there))
    assert found == pytest.approx(error(*search_ranges(groups, blocks, grid)), rel=1e-3)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(("outputs", "inputs", "width"), [(100, 256, 32), (16, 96, -1), (33, 384, 128)])
@pytest.mark.parametrize("clip", [False, True])
def test_the_kernel_rounds_columns_as_torch_does(
    outputs: int, inputs: int, width: int, clip: bool, numbers: torch.Generator
) -> None:
    seen, weight = correlated(800, inputs, numbers), torch.randn(outputs, inputs, generator=numbers)
    gram, grid = seen.T @ seen, Grid(4, False, width)
    here = round_gptq(weight, gram, grid, clip=clip)
    there = round_gptq(weight.cuda(), gram.cuda(), grid, clip=clip)
    # Sums in another order move a weight over the edge between two codes now and then, and what follows it.
    assert (there.codes.cpu() == here.codes).float().mean() > 0.97
    errors = [output_error(grid_of.weight(grid).cpu() - weight, gram).item() for grid_of in (here, there)]
    assert errors[1] == pytest.approx(errors[0], rel=0.01)
