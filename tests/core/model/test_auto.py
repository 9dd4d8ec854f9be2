"""Settings that follow the model and the data: the rules, as properties, and what is said of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.cli import main
from core.data.records import resolve_at_hand
from core.events import Reporter
from core.files import MANIFEST
from core.folder import LabFolder
from core.language import Told
from core.model.auto import GROUP_SIZES, Facts, RecordCount, Resolved, resolve
from core.model.template import PLAIN
from core.options import AUTO
from core.recipe import OPTIONS, Recipe
from core.report import report_text
from core.stage_context import resolve_for_stage
from core.stages import STAGES
from tests.tiny_models import make_tiny

WIDTHS = st.lists(st.integers(1, 20_000), min_size=1, max_size=6)
FACTS = st.builds(
    Facts,
    parameters=st.integers(1, 10**12),
    inputs=WIDTHS.map(lambda widths: tuple((width, 3, f"layer.{width}") for width in sorted(set(widths)))),
    positions=st.sampled_from([0, 16, 512, 2048, 131072]),
    chat_template=st.sampled_from([True, False, None]),
    group_size=st.sampled_from([None, 32]),
)
RECORDS = st.builds(RecordCount, rows=st.integers(0, 10**8), tokens=st.floats(0, 1e6))
OPTIONS_AUTO = {option.name: option for group in OPTIONS.values() for option in group.values() if option.auto}
WRITTEN = st.fixed_dictionaries(
    {},
    optional={
        "quantize.group_size": st.sampled_from([16, 32, 64, 128, 256]),
        "finetune.rank": st.integers(1, 1024),
        "finetune.alpha": st.integers(1, 4096),
        "finetune.steps": st.integers(1, 10**6),
        "finetune.batch_size": st.integers(1, 4096),
        "finetune.learning_rate": st.floats(1e-8, 1.0),
        "finetune.turns": st.integers(1, 64),
        "finetune.dropout": st.floats(0, 0.9),
        "data.max_seq_len": st.integers(16, 131072),
        "data.template": st.sampled_from(["{prompt} {response}", PLAIN]),
        "quantize.calibration_samples": st.integers(1, 4096),
        "quantize.max_calibration_len": st.integers(16, 8192),
    },
)


def value(recipe: Recipe, name: str) -> Any:
    section, _, key = name.partition(".")
    return getattr(getattr(recipe, section), key)


def chosen(resolved: Resolved, name: str) -> Any:
    return next(each.value for each in resolved.chosen if each.option == name)


@given(WIDTHS)
def test_the_group_size_is_the_largest_that_divides_every_matrix_or_there_is_none(widths: list[int]) -> None:
    facts = Facts(10**9, tuple((width, 1, f"layer.{width}") for width in sorted(set(widths))))
    found = resolve(Recipe(), facts, None)
    fitting = [size for size in GROUP_SIZES if all(width % size == 0 for width in widths)]
    choice = next(each for each in found.chosen if each.option == "quantize.group_size")
    assert choice.value == max(fitting, default=None)
    assert choice.value in (None, found.recipe.quantize.group_size)
    named = any(f"layer.{width} " in choice.reason for width in widths if width % 16)
    assert named == (not fitting), "the layer that stands in the way is named"


@given(FACTS, RECORDS, WRITTEN)
def test_every_auto_becomes_a_possible_value_and_what_was_written_stays(
    facts: Facts, records: RecordCount, written: dict[str, Any]
) -> None:
    asked = Recipe().with_values(written)
    found = resolve(asked, facts, records)
    for name, option in OPTIONS_AUTO.items():
        made = value(found.recipe, name)
        assert option.check(made) == made
        assert made != AUTO or name == "data.template"
        assert made == written.get(name, made)
    assert {each.option for each in found.chosen} == set(OPTIONS_AUTO) - set(written)
    assert all(each.reason for each in found.chosen)


@given(FACTS, RECORDS, WRITTEN)
def test_resolving_again_changes_nothing(facts: Facts, records: RecordCount, written: dict[str, Any]) -> None:
    once = resolve(Recipe().with_values(written), facts, records).recipe
    again = resolve(once, facts, records).recipe
    assert again == once
    as_written = {name: value(once, name) for name in OPTIONS_AUTO if value(once, name) != AUTO}
    by_hand = resolve(Recipe().with_values(as_written), facts, records).recipe
    assert dataclasses.asdict(by_hand) == dataclasses.asdict(once)  # so the fingerprints are the same


@given(st.integers(10**6, 10**11), st.integers(1, 10**6))
def test_small_models_learn_faster_and_longer(parameters: int, rows: int) -> None:
    small = resolve(Recipe(), Facts(parameters), RecordCount(rows, 60.0)).recipe.finetune
    large = resolve(Recipe(), Facts(parameters * 8), RecordCount(rows, 60.0)).recipe.finetune
    assert small.learning_rate >= large.learning_rate
    bounded = large.steps == 20 or small.steps == 10_000  # else by the rows, up to a part of a step
    assert bounded or small.steps * small.batch_size >= large.steps * large.batch_size - large.batch_size
    for tune in small, large:
        assert 20 <= tune.steps <= 10_000
        assert tune.steps == 20 or tune.steps * tune.batch_size <= 21 * rows + tune.batch_size


@pytest.mark.parametrize(
    ("parameters", "rate", "rank", "rounds"),
    [(4_000_000, 6e-3, 32, 20), (135_000_000, 1e-3, 16, 5), (8_000_000_000, 2e-4, 16, 3)],
)
def test_the_travel_records_on_models_of_known_sizes(
    parameters: int, rate: float, rank: int, rounds: int
) -> None:
    tune = resolve(Recipe(), Facts(parameters), RecordCount(371, 60.0)).recipe.finetune
    assert (tune.learning_rate, tune.rank, tune.alpha) == (rate, rank, 2 * rank)
    assert round(tune.steps * tune.batch_size / 371) == rounds


@pytest.mark.parametrize(
    ("parameters", "tokens", "rows"),
    [
        (135_000_000, 4.0, 1024),
        (135_000_000, 40.0, 410),
        (135_000_000, 500.0, 33),
        (135_000_000, 9000.0, 32),
        (8_000_000_000, 40.0, 410),
        (8_000_000_000, 200.0, 128),
        (8_000_000_000, 9000.0, 128),
    ],
)
def test_calibration_takes_as_many_tokens_as_help(parameters: int, tokens: float, rows: int) -> None:
    found = resolve(Recipe(), Facts(parameters, positions=8192), RecordCount(5000, tokens)).recipe.quantize
    assert (found.calibration_samples, found.max_calibration_len) == (rows, 512)


@given(
    st.sampled_from([4_000_000, 135_000_000, 8_000_000_000]),
    st.integers(1, 3000),
    st.floats(1.0, 3000.0),
)
def test_what_calibration_is_said_to_see_is_there(parameters: int, rows: int, tokens: float) -> None:
    facts = Facts(parameters, positions=8192)
    found = resolve(Recipe(), facts, RecordCount(rows, tokens))
    samples = found.recipe.quantize.calibration_samples
    assert isinstance(samples, int)
    assert 1 <= samples <= rows
    (reason,) = (each.reason for each in found.chosen if each.option == "quantize.calibration_samples")
    assert isinstance(reason, Told)
    seen = 1.02 * samples * min(tokens, 512.0)
    enough = "wanted" in reason.values and reason.values["wanted"] <= seen  # type: ignore[operator]
    everything = reason == ("the only record" if rows == 1 else f"all {rows} records")
    assert enough or everything or ("wanted" not in reason.values and samples < rows)


def test_long_records_make_small_batches() -> None:
    assert resolve(Recipe(), Facts(10**9), RecordCount(5000, 60.0)).recipe.finetune.batch_size == 8
    assert resolve(Recipe(), Facts(10**9), RecordCount(5000, 1500.0)).recipe.finetune.batch_size == 2
    assert resolve(Recipe(), Facts(10**9), RecordCount(3, 60.0)).recipe.finetune.batch_size == 3


def test_few_records_are_not_learnt_in_a_handful_of_large_steps() -> None:
    """The sample in most languages has 60 records: 20 rounds of 24 a step were 45 steps, and 1 answer of 20 right."""
    few = resolve(Recipe(), Facts(4_000_000), RecordCount(54, 70.0)).recipe.finetune
    many = resolve(Recipe(), Facts(4_000_000), RecordCount(372, 45.0)).recipe.finetune
    assert (few.batch_size, few.steps) == (8, 135)
    assert (many.batch_size, many.steps) == (24, 310)


def test_rejected_answers_are_learnt_from_by_dpo_and_more_slowly() -> None:
    answers = resolve(Recipe(), Facts(4_000_000), RecordCount(60, 80.0)).recipe.finetune
    pairs = resolve(Recipe(), Facts(4_000_000), RecordCount(60, 80.0, 60)).recipe.finetune
    assert (answers.objective, pairs.objective) == ("sft", "dpo")
    assert (answers.turns, pairs.turns) == (8, 1)
    assert (answers.learning_rate, pairs.learning_rate) == (6e-3, 6e-4)
    both = Recipe().with_values({"finetune.objective": "orpo"})  # learns the chosen answers as well
    assert resolve(both, Facts(4_000_000), RecordCount(60, 80.0, 60)).recipe.finetune.learning_rate == 6e-3


def test_what_cannot_be_known_yet_has_no_value_and_says_what_is_missing() -> None:
    def unknown(facts: Facts | None, records: RecordCount | None, **values: Any) -> set[str]:
        recipe = Recipe().with_values({f"finetune.{key}": value for key, value in values.items()})
        return {each.option for each in resolve(recipe, facts, records).chosen if each.value is None}

    assert unknown(Facts(10**9), RecordCount(10, 1.0)) == set()
    assert "finetune.steps" in unknown(Facts(10**9), None)
    assert {"finetune.objective", "finetune.learning_rate"} <= unknown(Facts(10**9), None)
    assert "finetune.learning_rate" not in unknown(Facts(10**9), None, objective="sft")
    assert {"quantize.group_size", "data.template", "finetune.steps"} <= unknown(None, RecordCount(10, 1.0))
    assert unknown(Facts(10**9, chat_template=None), RecordCount(10, 1.0)) == {"data.template"}


def test_a_model_without_a_chat_template_gets_plain_text_and_that_is_said() -> None:
    found = resolve(Recipe(), Facts(10**9, chat_template=False), None)
    assert found.recipe.data.template == PLAIN
    assert "no chat template" in found.chosen[0].reason
    assert resolve(Recipe(), Facts(10**9), None).recipe.data.template == AUTO


@pytest.mark.parametrize("arch", ["llama", "phi3"])
def test_the_facts_of_a_folder_are_those_of_its_files(arch: str, tmp_path: Path) -> None:
    folder = make_tiny(arch, tmp_path / "model")
    facts = Facts.of(folder)
    assert facts.chat_template
    assert facts.inputs
    assert Facts.from_dict(json.loads(json.dumps(facts.as_dict()))) == facts
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert not Facts.of(folder).chat_template


def test_another_model_changes_what_is_auto_and_nothing_else(tmp_path: Path) -> None:
    lab = LabFolder(tmp_path)
    make_tiny("llama", tmp_path / "tiny")
    for source in ("rehearsal", str(tmp_path / "tiny")):
        recipe = Recipe().with_values({"model.source": source, "finetune.rank": 5})
        found = resolve_at_hand(lab, recipe)
        assert found.recipe.finetune.rank == 5
        assert found.recipe.finetune.alpha == 10
        group = found.recipe.quantize.group_size
        assert (group == 128) == (source == "rehearsal")


def test_later_stages_follow_the_model_that_was_quantized(tmp_path: Path) -> None:
    lab = LabFolder(tmp_path)
    # The other model's tokenizer counts other lengths, which the real one's quantized model does not.
    records = {"data.file": "data_sample_travel.jsonl", "quantize.calibration_samples": 77}
    recipe = Recipe().with_values(records)
    first, facts = resolve_for_stage(STAGES["quantize"], lab, recipe, Reporter())
    assert facts is not None
    make_tiny("llama", lab.quantized_dir)
    model = {"source": "rehearsal", "facts": facts.as_dict()}
    (lab.quantized_dir / MANIFEST).write_text(json.dumps({"model": model}))
    other = recipe.with_values({"model.source": "somebody/another"})
    later, _ = resolve_for_stage(STAGES["finetune"], lab, other, Reporter())
    assert later.recipe.finetune.learning_rate == first.recipe.finetune.learning_rate
    assert later.recipe.quantize == first.recipe.quantize
    assert all(each.value is not None for each in later.chosen)


def test_check_and_report_tell_what_was_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", str(tmp_path / "lab")]) == 0
    capsys.readouterr()
    main(["check", str(tmp_path / "lab"), "--json"])
    told = {each["option"]: each for each in json.loads(capsys.readouterr().out)["auto"]}
    assert told["quantize.group_size"]["value"] == 128
    assert "17 matrices" in told["quantize.group_size"]["reason"]
    assert set(told) == set(OPTIONS_AUTO)
    main(["check", str(tmp_path / "lab")])
    assert "settings that follow the model" in capsys.readouterr().out
    main(["data", str(tmp_path / "lab"), "--json"])
    assert {each["option"]: each for each in json.loads(capsys.readouterr().out)["auto"]} == told

    lab = LabFolder(tmp_path / "lab")
    lab.quantized_dir.mkdir(parents=True)
    odd = {"option": "quantize.group_size", "value": 32, "reason": "a|b [c]"}
    (lab.quantized_dir / MANIFEST).write_text(json.dumps({"result": {}, "auto": [odd]}))
    assert "| quantize.group_size | 32 | a\\|b \\[c\\] |" in report_text(lab, Recipe())
    (lab.quantized_dir / MANIFEST).write_text("{")
    assert "A file is damaged." in report_text(lab, Recipe())
