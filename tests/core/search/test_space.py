"""What a search chooses from: sizes by arithmetic, limits as people write them, the front."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import RequestError
from core.events import Reporter
from core.folder import LabFolder
from core.model.folder import model_facts
from core.quantize.stage import make
from core.search.space import (
    Candidate,
    SearchLimits,
    WeightForm,
    algorithms_to_try,
    fitting_groups,
    forms_of,
    front,
    kinds_of,
    read_loss,
    read_seconds,
    read_size,
    read_speed,
    size_of,
)
from core.stage_context import StageContext
from tests.recipes import settled
from tests.tiny_models import make_tiny


@pytest.mark.parametrize(
    ("arch", "form"),
    [
        ("llama", WeightForm(4, 32)),
        ("smollm", WeightForm(4, 16, ("down_proj",))),
        ("qwen2", WeightForm(8, 64)),
        ("phi3", WeightForm(4, 64, ("qkv_proj",))),
    ],
)
def test_the_size_is_known_before_anything_is_run(arch: str, form: WeightForm, tmp_path: Path) -> None:
    source = make_tiny(arch, tmp_path / arch, dtype="bfloat16")
    recipe = settled({"model.source": str(source), **Candidate("rtn", form).values})
    lab = LabFolder(tmp_path / "lab")
    context = StageContext(lab, recipe, Reporter(), lab.models_dir / "work", {}, {})
    made, _ = make(context, source, model_facts(source), [])
    # The rest is the header, whose offsets have more digits in a larger file.
    assert size_of(model_facts(source), form) == pytest.approx(model_facts(made).weight_bytes, abs=3000)


def test_layers_that_read_one_input_have_the_same_bits(tmp_path: Path) -> None:
    facts = model_facts(make_tiny("llama", tmp_path / "m"))
    assert {frozenset(kind) for kind in kinds_of(facts)} == {
        frozenset(("q_proj", "k_proj", "v_proj")),
        frozenset(("o_proj",)),
        frozenset(("gate_proj", "up_proj")),
        frozenset(("down_proj",)),
    }


def test_groups_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    facts = model_facts(make_tiny("llama", tmp_path / "m", hidden=96))
    assert fitting_groups(facts) == [32]
    with pytest.raises(RequestError, match="64 do not divide") as caught:
        fitting_groups(facts, [64])
    assert caught.value.code == "model.group-size"
    with pytest.raises(RequestError, match="no algorithm 'gtpq'"):
        algorithms_to_try(["gtpq"])
    assert algorithms_to_try(["rtn", "awq+gptq"]) == ["awq+gptq", "rtn"]


def test_each_form_has_more_layers_of_eight_bits() -> None:
    forms = forms_of([64, 32], [("a",), ("b", "c")])
    assert [(form.bits, form.group_size, form.eight_bit) for form in forms] == [
        (4, 64, ()), (4, 32, ()), (4, 64, ("a",)), (4, 32, ("a",)), (4, 64, ("a", "b", "c")),
        (4, 32, ("a", "b", "c")), (8, 64, ()),
    ]  # fmt: skip
    assert len({form.name for form in forms}) == len(forms)


def test_limits_are_read_as_people_write_them() -> None:
    assert read_size("2.5GB") == 2_500_000_000
    assert read_size(" 900 mb ") == 900_000_000
    assert read_size("1.5GiB") == 3 << 29
    assert read_loss("1%") == read_loss("1") == 0.01
    assert read_speed("20") == 20
    assert (read_seconds("20m"), read_seconds("90s"), read_seconds("1.5 h")) == (1200, 90, 5400)


@pytest.mark.parametrize("read", [read_size, read_loss, read_speed, read_seconds])
@given(text=st.text(max_size=12))
def test_what_is_no_limit_is_refused(read: object, text: str) -> None:
    assert callable(read)
    value, said = None, ""
    try:
        value = read(text)
    except ValueError as error:
        said = str(error)
    assert repr(text) in said if value is None else value >= 0


def test_a_limit_that_is_broken_is_named() -> None:
    limits = SearchLimits(size=1000, loss=0.01, speed=20)
    assert limits.broken_by(1000, 0.01, 20) == ""
    assert limits.broken_by(None, None, None) == ""
    assert limits.broken_by(1001, None, None) == "1001 B is too large"
    assert limits.broken_by(1, 0.02, None) == "2.0 % worse is too much"
    assert limits.broken_by(1, 0.0, 19.5) == "19.5 tokens/s is too slow"
    assert SearchLimits.from_dict(limits.as_dict()) == limits
    assert limits.words == "at most 1000 B, at most 1 % worse, at least 20 tokens/s"


POINT = st.tuples(st.integers(0, 5).map(float), st.integers(0, 5).map(float))


@given(st.dictionaries(st.integers(0, 20), POINT, max_size=12))
def test_nothing_is_smaller_and_better_than_what_is_on_the_front(
    points: dict[int, tuple[float, float]],
) -> None:
    found = front(points)
    beaten = {
        name
        for name, (size, loss) in points.items()
        if any(s <= size and v <= loss and (s, v) != (size, loss) for s, v in points.values())
    }
    assert not beaten & set(found)
    assert {points[name] for name in found} == {points[name] for name in set(points) - beaten}
    assert len({points[name] for name in found}) == len(found)
