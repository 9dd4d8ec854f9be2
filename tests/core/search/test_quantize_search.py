"""The search for a way to quantize, on tiny models: it finds what making every candidate finds, and measures once."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.errors import Cancelled, RequestError
from core.events import RecordingReporter
from core.folder import LabFolder
from core.model.folder import model_facts
from core.quantize.stage import chosen_rows, make
from core.search import quantize as searching
from core.search.quantize import QuantizeSearch
from core.search.space import Candidate, SearchLimits, WeightForm, size_of
from core.searched import read_board
from core.stage_context import StageContext
from tests.recipes import settled
from tests.tiny_models import make_tiny

ALGORITHMS = ("awq+gptq", "gptq", "rtn")
GROUPS = (32, 16)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("llama", tmp_path_factory.mktemp("model") / "m", layers=4, salient=3)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LabFolder:
    # How fast an ONNX model answers is no matter of these tests, and takes its time to be built.
    monkeypatch.setattr("core.optimize.speed.decoding_speed", lambda *_: (30.0, 1000))
    return LabFolder(tmp_path / "lab")


def context_of(lab: LabFolder, model: Path) -> StageContext:
    recipe = settled(
        {"model.source": str(model), "quantize.group_size": 32, "quantize.calibration_samples": 16}
    )
    shutil.rmtree(lab.models_dir / ".work", ignore_errors=True)
    (lab.models_dir / ".work").mkdir(parents=True)
    return StageContext(lab, recipe, RecordingReporter(), lab.models_dir / ".work", {}, {})


def search(lab: LabFolder, model: Path, limits: SearchLimits, **more: Any) -> QuantizeSearch:
    given: dict[str, Any] = {"algorithms": ALGORITHMS, "groups": GROUPS, "mixed": False, **more}
    return QuantizeSearch(context_of(lab, model), limits, **given)


def exhaustive(lab: LabFolder, model: Path, most: int) -> dict[Candidate, float]:
    """Every candidate made and measured by itself, as the quantize stage does it."""
    from core.quantize.verify import verify

    facts, context = model_facts(model), context_of(lab, model)
    rows, held_out = chosen_rows(context, model, facts)
    found = {}
    for candidate in (Candidate(name, WeightForm(4, group)) for name in ALGORITHMS for group in GROUPS):
        if size_of(facts, candidate.form) <= most:
            work = context.work / f"{candidate.algorithm}-{candidate.form.name}"
            one = replace(context, recipe=candidate.put_into(context.recipe), work=work)
            made, _ = make(one, model, facts, rows)
            found[candidate] = verify(one, model, made, rows, held_out).kl
    return found


def test_under_a_limit_of_size_it_finds_what_making_all_finds_and_measures_nothing_twice(
    lab: LabFolder, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = model_facts(model)
    most = size_of(facts, WeightForm(4, 32))
    assert size_of(facts, WeightForm(4, 16)) > most
    divergences = exhaustive(lab, model, most)
    board = search(lab, model, SearchLimits(size=most), finalists=2).run()
    best = board.picked(board.best or 0)
    assert best.values == min(divergences, key=lambda each: divergences[each]).values
    measured = {each.title: each.loss for each in board.tries if each.state == "measured"}
    assert measured == {
        candidate.title: pytest.approx(loss, rel=1e-3)
        for candidate, loss in divergences.items()
        if candidate.title in measured
    }
    assert len(measured) == 2
    assert {each.state for each in board.tries if each.size and each.size > most} == {"refused"}
    assert read_board(lab, "quantize") == board

    def never(*_: object, **__: object) -> Any:
        raise AssertionError("it was measured before")

    monkeypatch.setattr("core.quantize.sample.SampledModel", never)
    monkeypatch.setattr(QuantizeSearch, "_whole", never)
    again = search(lab, model, SearchLimits(size=most), finalists=2).run()
    assert again == board
    told = search(lab, model, SearchLimits(size=most, speed=1000), finalists=2).run()
    assert told.best is None
    assert "within the limits" in told.note


def test_a_limit_that_nothing_meets_is_refused_before_anything_is_computed(
    lab: LabFolder, model: Path
) -> None:
    with pytest.raises(RequestError, match="Nothing is as small as") as caught:
        search(lab, model, SearchLimits(size=1000)).run()
    assert caught.value.code == "search.size"


def test_what_cannot_be_tried_on_some_layers_is_left_out_and_alone_refused(
    lab: LabFolder, model: Path
) -> None:
    with pytest.raises(RequestError, match="awq\\+signround cannot be tried") as caught:
        search(lab, model, SearchLimits(), algorithms=["awq+signround"]).run()
    assert caught.value.code == "search.algorithm"
    board = search(
        lab, model, SearchLimits(), algorithms=["awq+signround", "rtn"], groups=(32,), finalists=1
    ).run()
    assert [each.title.split(",")[0] for each in board.tries] == ["rtn"]


def test_a_stop_keeps_what_was_measured(lab: LabFolder, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = search(lab, model, SearchLimits(), algorithms=("gptq", "rtn"), groups=(32,), finalists=1)
    measure = searching.SampledLayers.divergence
    seen: list[str] = []

    def stopping(self: Any, how: Any, layers: Any) -> float:
        seen.append(f"{how.algorithm} {len(layers)}")
        if len(seen) == 2:
            raise Cancelled
        return measure(self, how, layers)

    monkeypatch.setattr(searching.SampledLayers, "divergence", stopping)
    with pytest.raises(Cancelled):
        first.run()
    board = search(lab, model, SearchLimits(), algorithms=("gptq", "rtn"), groups=(32,), finalists=1).run()
    assert seen.count("gptq 2") == 1, seen
    assert board.done
    assert [each.state for each in board.tries if each.number == board.best] == ["measured"]


@pytest.mark.parametrize("algorithm", ["awq", "rtn", "kquant"])
def test_all_layers_rounded_here_are_what_the_pass_makes(
    algorithm: str, lab: LabFolder, model: Path, tmp_path: Path
) -> None:
    import torch

    from core.olive.checkpoint import Packed, read_tensors
    from core.quantize.sample import HowRounded, SampledModel

    context = context_of(lab, model)
    facts = model_facts(model)
    rows, held_out = chosen_rows(context, model, facts)
    candidate = Candidate(algorithm, WeightForm(4, 32, ("down_proj",)))
    made, _ = make(replace(context, recipe=candidate.put_into(context.recipe)), model, facts, rows)
    sampled = SampledModel(model, rows, held_out[:2], range(4), tmp_path, context.report)
    try:
        layer = sampled.rounded(2, HowRounded(algorithm, 4, 32, ("down_proj",)))
    finally:
        sampled.close()
    wanted = dict(read_tensors(made))
    for name, (rounded, grid) in layer.matrices.items():
        packed = wanted[f"model.layers.2.{name}.weight"]
        assert isinstance(packed, Packed)
        assert grid.bits == packed.bits == (8 if "down_proj" in name else 4)
        difference = (rounded.weight(grid) - packed.weight()).abs()
        assert difference.mean() < 1e-4 * packed.weight().abs().mean(), name
    assert torch.isfinite(sampled.expected[0]).all()
