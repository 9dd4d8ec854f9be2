"""The evaluate stage on a tiny lab: its figures are those of a computation by hand, and what was measured is kept."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from core.assessments import of_evaluate
from core.errors import Cancelled, LabError, StageError
from core.evaluate import measuring, stage
from core.evaluate.measuring import Measuring
from core.evaluate.plan import EvaluationPlan, make_plan, variants
from core.evaluate.worker import TorchModel, Worker
from core.evaluated import ROWS as ROWS_FILE
from core.events import RecordingReporter
from core.files import MANIFEST, read_json, write_json
from core.folder import LabFolder
from core.model.auto import Settled
from core.similarity import rouge_l, says_the_same
from core.stage_context import StageContext
from core.stages import STAGES
from tests.core.optimize.labs import add_adapter, quantized_lab, recipe_with, run_stage
from tests.tiny_models import make_tiny

ROWS = 10


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> LabFolder:
    lab = quantized_lab(tmp_path_factory.mktemp("evaluated"), "llama")
    add_adapter(lab, "travel", rank=4, seed=1)
    run_stage(lab)
    return lab


@pytest.fixture
def lab(made: LabFolder, tmp_path: Path) -> LabFolder:
    """A copy that a test may change."""
    shutil.copytree(made.root, tmp_path / "lab", copy_function=shutil.copy2)
    return LabFolder(tmp_path / "lab")


def recipe_of(lab: LabFolder, **values: Any) -> Settled:
    text = lab.root / "general.txt"
    text.write_text(
        "The train is late today.\n\nBread and salt.\n\nIt rains in the north, and the sea is grey.\n"
    )
    usual = {
        "model.source": str(lab.root / "source"),
        "evaluate.rows": ROWS,
        "evaluate.general_text": str(text),
        "chat.max_new_tokens": 10,
    }
    return recipe_with({**usual, **values})


class Here:
    """Stands for :class:`core.process.Child`: the worker in this very process, since torch takes seconds to load."""

    asked: list[str]
    before: Any = None

    def __init__(self, module: str, **_: Any) -> None:
        assert module == "core.evaluate.worker"
        self._worker = Worker()

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start(self, ask: dict[str, Any], on_event: Any = None) -> Any:
        Here.asked.append(ask["do"])
        future: Future[Any] = Future()
        try:
            if Here.before is not None:
                Here.before(ask)
            request: Any = SimpleNamespace(ask=json.loads(json.dumps(ask)), reporter=RecordingReporter)
            future.set_result(json.loads(json.dumps(self._worker.handle(request))))
        except LabError as error:
            future.set_exception(error)
        return SimpleNamespace(future=future)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Here]]:
    Here.asked, Here.before = [], None
    monkeypatch.setattr(measuring, "Child", Here)
    monkeypatch.setattr(stage, "Child", Here)
    yield Here
    Here.before = None


def evaluate(lab: LabFolder, recipe: Settled | None = None) -> tuple[dict[str, Any], RecordingReporter]:
    """The stage as a job's worker runs it."""
    recipe, report = recipe or recipe_of(lab), RecordingReporter()
    work = lab.models_dir / f".work-{len(list(lab.models_dir.glob('.work-*')))}-evaluate"
    work.mkdir()
    prints = json.loads(json.dumps({"stage": "evaluate", **stage.fingerprint(lab, recipe)}))
    return stage.run(StageContext(lab, recipe, report, work, {"fingerprint": prints}, {})), report


def by_hand(session: Any, plan: EvaluationPlan, number: int, adapter: Path | None) -> float:
    """The loss of a row's answer: the graph in onnxruntime itself, and the logarithm of each token's share."""
    ids = np.array([plan.rows[number].ids], dtype=np.int64)
    feeds: dict[str, Any] = {}
    for each in session.get_inputs():
        if each.name == "input_ids":
            feeds[each.name] = ids
        elif each.name == "attention_mask":
            feeds[each.name] = np.ones_like(ids)
        elif each.name == "position_ids":
            feeds[each.name] = np.arange(ids.shape[1])[None]
        elif each.name.startswith("past_key_values"):
            feeds[each.name] = np.zeros((1, 2, 0, 16), dtype=np.float32)
    if adapter:
        import onnxruntime

        given = onnxruntime.AdapterFormat.read_adapter(str(adapter)).get_parameters()
        feeds |= {name: value.numpy() for name, value in given.items()}
    logits = session.run(["logits"], feeds)[0][0].astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    learnt = [place for place, wanted in enumerate(plan.rows[number].learnt) if wanted]
    return float(np.mean([-np.log(shares[place - 1, ids[0, place]]) for place in learnt]))


def loss_by_peft(lab: LabFolder, plan: EvaluationPlan) -> float:
    """The mean loss of the answers' tokens from transformers' logits, with PEFT's own layers."""
    import torch
    from peft import PeftModel
    from torch.nn import functional

    from core.olive.checkpoint import load_model, unpack_linears

    model = load_model(lab.quantized_dir, dtype=torch.float32)
    unpack_linears(model, torch.float32)
    tuned = PeftModel.from_pretrained(model, str(lab.finetuned_dir("travel"))).eval()
    total, count = 0.0, 0
    for row in plan.rows:
        with torch.inference_mode():
            logits = tuned(input_ids=torch.tensor([row.ids])).logits[0, :-1]
        wanted = torch.tensor(row.learnt[1:])
        targets = torch.tensor(row.ids[1:])[wanted]
        total += float(functional.cross_entropy(logits[wanted], targets, reduction="sum"))
        count += len(targets)
    return total / count


def test_the_deployed_figures_are_those_of_a_computation_by_hand(lab: LabFolder, here: type[Here]) -> None:
    import onnxruntime

    result, report = evaluate(lab)
    assert list(result["variants"]) == ["float", "quantized", "tuned", "onnx", "onnx_tuned"]
    assert result["left_out"] == {}
    folder = lab.evaluation_dir("travel")
    rows = [json.loads(line) for line in (folder / ROWS_FILE).read_text().splitlines()]
    assert len(rows) == ROWS
    plan = make_plan(lab, recipe_of(lab), report, 500)
    session = onnxruntime.InferenceSession(
        str(lab.onnx_dir / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    for name, adapter in (("onnx", None), ("onnx_tuned", lab.adapter_file("travel"))):
        hand = [by_hand(session, plan, number, adapter) for number in range(ROWS)]
        assert [row["losses"][name] for row in rows] == pytest.approx(hand, abs=2e-4)
        counts = [sum(row.learnt) for row in plan.rows]
        loss = sum(h * n for h, n in zip(hand, counts, strict=True)) / sum(counts)
        numbers = result["variants"][name]
        assert numbers["loss"]["value"] == pytest.approx(loss, abs=2e-4)
        assert numbers["perplexity"]["value"] == pytest.approx(math.exp(loss), rel=1e-3)
        assert numbers["loss"]["low"] < numbers["loss"]["value"] < numbers["loss"]["high"]
        said = [(row["answers"][name], row["expected"]) for row in rows]
        assert numbers["right"]["value"] == sum(says_the_same(*pair) for pair in said) / ROWS
        assert numbers["words"]["value"] == pytest.approx(
            sum(rouge_l(*pair) for pair in said) / ROWS, rel=1e-5
        )
        assert numbers["tokens_per_s"]["low"] <= numbers["tokens_per_s"]["value"]
        assert numbers["peak_bytes"] > 10_000_000
    assert result["variants"]["tuned"]["loss"]["value"] == pytest.approx(loss_by_peft(lab, plan), rel=1e-4)
    manifest = read_json(folder / MANIFEST)
    assert manifest["result"] == result
    assert result["variants"]["float"]["kl"]["value"] == pytest.approx(0, abs=1e-6)
    assert result["variants"]["onnx_tuned"]["kl"]["value"] > 0
    assert len(result["kl_by_layer"]) == 2
    assert 0 < min(result["kl_by_layer"]) <= max(result["kl_by_layer"])
    assert result["before"] == "float"
    assert result["after"] == "onnx_tuned"


def test_answers_given_at_once_are_those_given_one_by_one(made: LabFolder) -> None:
    model = TorchModel(made.quantized_dir, None, trust=False, free=1 << 40)
    prompts: list[dict[str, Any]] = [{"ids": list(range(10, 10 + n)), "most": 3 + n} for n in (4, 11, 2, 7)]
    single = [model.answer(each["ids"], each["most"], [50])["ids"] for each in prompts]
    assert [each["ids"] for each in model.answers(prompts, [50])] == single
    ends = [single[1][2]]
    again = [model.answer(each["ids"], each["most"], ends)["ids"] for each in prompts]
    assert [each["ids"] for each in model.answers(prompts, ends)] == again
    assert again[1][-1] == ends[0]


def test_a_stopped_evaluation_goes_on_where_it_was(lab: LabFolder, here: type[Here]) -> None:
    scored = 0

    def stop_at_the_fifth(ask: dict[str, Any]) -> None:
        nonlocal scored
        scored += ask["do"] == "score"
        if scored == 15:
            raise Cancelled

    here.before = stop_at_the_fifth
    with pytest.raises(Cancelled):
        evaluate(lab)
    assert not lab.evaluation_dir("travel").exists()
    here.asked, here.before = [], None
    result, _ = evaluate(lab)
    assert here.asked.count("score") == 50 - 14
    assert len(result["variants"]) == 5


def test_what_has_not_changed_is_not_measured_again(lab: LabFolder, here: type[Here]) -> None:
    first, _ = evaluate(lab)
    shutil.rmtree(lab.finetuned_dir("travel"))
    add_adapter(lab, "travel", rank=4, seed=2)
    here.asked = []
    second, _ = evaluate(lab)
    assert here.asked.count("open") == 1
    assert second["variants"]["float"] == first["variants"]["float"]
    assert second["variants"]["tuned"]["loss"] != first["variants"]["tuned"]["loss"]
    assert first["apart"] == {}
    assert second["apart"] == {"optimize": "the adapter was trained anew"}
    assert "run optimize again" in of_evaluate(second).text
    here.asked = []
    evaluate(lab)  # the same once more is one that was forced
    assert here.asked.count("open") == 5


def test_a_variant_that_cannot_be_measured_is_left_out_with_the_reason(
    lab: LabFolder, here: type[Here]
) -> None:
    def fail(ask: dict[str, Any]) -> None:
        if ask["do"] == "open" and ask["onnx"] and ask["adapter"]:
            raise StageError("The ONNX model cannot be loaded.", "no such provider")

    here.before = fail
    result, _ = evaluate(lab, recipe_of(lab, **{"model.source": str(lab.root / "gone")}))
    assert list(result["variants"]) == ["quantized", "tuned", "onnx"]
    assert result["left_out"]["onnx_tuned"] == "The ONNX model cannot be loaded. no such provider"
    assert "gone" in result["left_out"]["float"]
    assert result["compared_with"] == "quantized"
    here.before = lambda ask: (_ for _ in ()).throw(StageError("Nothing works."))
    with pytest.raises(StageError, match="No variant"):
        evaluate(lab, recipe_of(lab, **{"evaluate.rows": 4}))


def test_a_process_of_its_own_is_measured_from_without(made: LabFolder, tmp_path: Path) -> None:
    report = RecordingReporter()
    plan = replace(make_plan(made, recipe_of(made), report, 100), general=[])
    deployed = variants(made, "travel", None)[-1]
    assert deployed.name == "onnx_tuned"

    def none() -> Path:
        raise AssertionError

    kept = Measuring(plan, tmp_path, report, {}, none, "").measure(deployed)
    assert kept["whole"]
    assert len(kept["answers"]) == len(kept["scores"]) == ROWS
    # Without torch, whose libraries alone take more than this.
    assert 20_000_000 < kept["peak"]["ram_bytes"] < 400_000_000


@pytest.fixture(scope="module")
def without_graph(tmp_path_factory: pytest.TempPathFactory) -> LabFolder:
    lab = quantized_lab(tmp_path_factory.mktemp("short"), "llama")
    add_adapter(lab, "travel", rank=4, seed=1)
    return lab


@pytest.fixture
def short(without_graph: LabFolder, tmp_path: Path) -> LabFolder:
    """A lab without an ONNX model, that a test may change."""
    shutil.copytree(without_graph.root, tmp_path / "lab", copy_function=shutil.copy2)
    return LabFolder(tmp_path / "lab")


def noted_as_made(lab: LabFolder, recipe: Settled) -> None:
    """The manifests that quantize and finetune would have left under this recipe."""
    for each, place in (("quantize", lab.quantized_dir), ("finetune", lab.finetuned_dir("travel"))):
        prints = {"stage": each, **STAGES[each].load().fingerprint(lab, recipe)}
        write_json(place / MANIFEST, {"fingerprint": prints, "result": {"steps": 1}})


def test_a_divergence_that_was_kept_is_one_from_the_model_that_it_is_said_to_be_from(
    short: LabFolder, here: type[Here]
) -> None:
    lab = short
    source = lab.root / "source"
    source.rename(lab.root / "elsewhere")
    without, _ = evaluate(lab)
    assert without["compared_with"] == "quantized"
    assert without["variants"]["quantized"]["kl"]["value"] == pytest.approx(0, abs=1e-6)
    (lab.root / "elsewhere").rename(source)
    # Other settings, so that it is not the same evaluation forced.
    result, _ = evaluate(lab, recipe_of(lab, **{"evaluate.task_limit": 7}))
    assert result["compared_with"] == "float"
    assert result["variants"]["quantized"]["kl"]["value"] > 1e-6


def test_a_float_model_that_the_quantized_one_is_not_of_is_left_out(
    short: LabFolder, here: type[Here]
) -> None:
    lab = short
    recipe = recipe_of(lab)
    noted_as_made(lab, recipe)
    result, _ = evaluate(lab, recipe)
    assert "float" in result["variants"]
    other = make_tiny("llama", lab.root / "other")
    result, report = evaluate(lab, recipe_of(lab, **{"model.source": str(other)}))
    assert list(result["variants"]) == ["quantized", "tuned"]
    assert result["left_out"]["float"] == "model.source is other, it was source."
    assert any("is not of it: model.source" in each.get("text", "") for each in report.events)


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("data.seed", 3, "data.seed is 3, it was 0"),
        ("data.eval_fraction", 0.3, "data.eval_fraction is 0.3, it was 0.1"),
        ("data.max_seq_len", 90, ""),
    ],
)
def test_records_that_the_adapter_may_have_learnt_are_said_to_be_such(
    short: LabFolder, here: type[Here], option: str, value: float, why: str
) -> None:
    lab = short
    noted_as_made(lab, recipe_of(lab))
    result, _ = evaluate(lab, recipe_of(lab, **{option: value}))
    assert result["other_held_out"] == why
    assert ("may have learnt these: run finetune again" in of_evaluate(result).text) is bool(why)
