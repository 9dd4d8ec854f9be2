"""The recipe: what it accepts, what it refuses and how, and that writing keeps people's comments."""

from __future__ import annotations

import dataclasses
import json
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core import Lab, RequestError
from core.options import AUTO
from core.recipe import (
    OPTIONS,
    Recipe,
    find_option,
    parse_recipe,
    read_recipe,
    recipe_text,
    write_values,
)

PATH = Path("lab.toml")


def test_a_fresh_recipe_reads_back_as_itself() -> None:
    recipe = Recipe().with_values({"quantize.bits": 8, "data.seed": 3, "upload.tags": {"team": "travel"}})
    assert parse_recipe(recipe_text(recipe), PATH) == recipe


def test_missing_tables_and_keys_take_the_defaults() -> None:
    recipe = parse_recipe("[finetune]\nsteps = 7\n", PATH)
    assert recipe.finetune.steps == 7
    assert recipe.finetune.rank == Recipe().finetune.rank
    assert recipe.quantize == Recipe().quantize


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[quantize]\nalgoritm = "awq"', ["quantize.algoritm", "line 2", "Did you mean quantize.algorithm"]),
        ("[quantize]\n\n# four\nbits = 5", ["quantize.bits", "line 4", "4, 8"]),
        ('[finetune]\nrank = "64"', ["finetune.rank", "line 2", "whole number"]),
        ('[finetune]\nrank = "automatic"', ["finetune.rank", "line 2", 'or "auto"']),
        ('[quantize]\nbits = "auto"', ["quantize.bits", "line 2", "4, 8"]),
        ("[finetune]\nrank = 0", ["line 2", "from 1 to 1024"]),
        ("[finetune]\nlearning_rate = nan", ["line 2", "number"]),
        ("[data]\neval_fraction = 1.5", ["line 2", "0 to 0.9"]),
        ("[data]\nchat_template = 1", ["true or false"]),
        ("[modell]\nsource = 'x'", ["[modell]", "line 1", "[model]"]),
        ("model = 3", ["model must be a table", "line 1"]),
        ("quantize.bits = 5", ["line 1", "quantize.bits"]),
        ("[quantize]\nbits = 4\nbits = 4", ["not valid TOML"]),
        ('[optimize]\ndevice = "gpu"', ["CPUExecutionProvider does not run on gpu", "CUDAExecutionProvider"]),
        ('[finetune]\nadapter = "../x"', ["finetune.adapter", "letters"]),
        ("[upload]\ntags = { a = 1 }", ["tag 'a'"]),
        ('[model]\nsource = ""', ["model.source is empty"]),
    ],
)
def test_what_is_wrong_is_named_with_file_line_key_and_cure(text: str, words: list[str]) -> None:
    with pytest.raises(RequestError) as caught:
        parse_recipe(text, PATH)
    for word in [*words, "lab.toml"]:
        assert word in str(caught.value)


OLD_TEMPLATE = "<|user|>\\n{prompt}<|end|>\\n<|assistant|>\\n{response}<|end|>"


@pytest.mark.parametrize(
    ("text", "template"),
    [
        ("", AUTO),
        ('template = "auto"', AUTO),
        (f'template = "{OLD_TEMPLATE}"\nchat_template = false', OLD_TEMPLATE),
        (f'template = "{OLD_TEMPLATE}"', OLD_TEMPLATE),
        (f'template = "{OLD_TEMPLATE}"\nchat_template = true', AUTO),
        (f'chat_template = true\ntemplate = "{OLD_TEMPLATE}"', AUTO),
        ("chat_template = true", AUTO),
        ("chat_template = false", AUTO),
    ],
)
def test_labs_from_before_auto_mean_what_they_meant(text: str, template: str, tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    path.write_text(f"[data]\n{text}\n")
    data = read_recipe(path).data
    assert data.template == template.replace("\\n", "\n")
    # A template that is written now holds, whatever the old key said.
    assert write_values(path, {"data.template": "Q: {prompt} A: {response}"}).data.template.startswith("Q: ")
    assert read_recipe(path).data.template == "Q: {prompt} A: {response}"
    assert "chat_template" not in path.read_text()
    assert write_values(path, {"data.chat_template": True}).data.template == AUTO
    assert read_recipe(path).data.template == AUTO


def test_an_option_by_its_old_name_is_read_and_written_by_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    path.write_text("[finetune]\neval_steps = 7\n")
    assert read_recipe(path).finetune.eval_every == 7
    assert write_values(path, {"finetune.eval_every": 9}).finetune.eval_every == 9
    assert "eval_steps" not in path.read_text()
    assert read_recipe(path).finetune.eval_every == 9
    assert write_values(path, {"finetune.eval_steps": 5}).finetune.eval_every == 5
    assert read_recipe(path).finetune.eval_every == 5


def test_the_best_cannot_be_found_without_measurements() -> None:
    parse_recipe('[finetune]\neval_every = 5\nkeep = "best"\nstop_early = 2', PATH)
    for asked in ('keep = "best"', "stop_early = 2"):
        with pytest.raises(RequestError, match="needs measurements"):
            parse_recipe(f"[finetune]\neval_every = 0\n{asked}", PATH)


def test_numbers_of_an_old_lab_stay() -> None:
    old = (
        "[quantize]\ngroup_size = 128\n[finetune]\nrank = 64\nalpha = 16\nsteps = 100\nlearning_rate = 2e-4\n"
    )
    recipe = parse_recipe(old, PATH)
    tune = recipe.finetune
    assert (recipe.quantize.group_size, tune.rank, tune.alpha, tune.steps, tune.learning_rate) == (
        128,
        64,
        16,
        100,
        2e-4,
    )


def test_what_follows_the_model_is_auto_in_a_new_lab_and_written_so() -> None:
    text = recipe_text(Recipe())
    options = [option for group in OPTIONS.values() for option in group.values() if option.auto]
    assert {"data.template", "quantize.group_size", "finetune.rank", "finetune.learning_rate"} <= {
        option.name for option in options
    }
    for option in options:
        assert option.default == AUTO
        assert option.parse("auto") == option.parse("") == option.parse(" Auto ") == AUTO
        assert option.check(AUTO) == AUTO
        assert '"auto"' in option.expected
        written = re.search(rf'(?m)^{option.key} = "auto" +# ', text)
        assert bool(written) != option.advanced, option.name
    assert "chat_template" not in text


def test_whole_numbers_serve_as_fractions() -> None:
    assert parse_recipe("[chat]\ntemperature = 1", PATH).chat.temperature == 1.0


def test_encodings(tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    path.write_bytes(b"\xef\xbb\xbf[model]\nsource = 'a/b'\n")
    assert read_recipe(path).model.source == "a/b"
    path.write_bytes(b"\xff\xfe[model]")
    with pytest.raises(RequestError, match="UTF-8"):
        read_recipe(path)


def test_writing_keeps_comments_and_order_and_writes_nothing_when_wrong(tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    path.write_text("# mine\n[finetune]\nsteps = 5 # few\n[model]\nsource = 'rehearsal'\n")
    write_values(path, {"finetune.steps": 6, "chat.system": "Be brief.", "upload.tags": {"a": "b"}})
    text = path.read_text()
    assert text.startswith("# mine\n[finetune]\nsteps = 6 # few\n[model]")
    assert read_recipe(path).chat.system == "Be brief."
    assert read_recipe(path).upload.tags == {"a": "b"}
    with pytest.raises(RequestError):
        write_values(path, {"finetune.steps": 7, "finetune.rank": -1})
    assert path.read_text() == text


def test_every_option_is_declared_whole() -> None:
    options = [declared for group in OPTIONS.values() for declared in group.values()]
    for declared in options:
        assert declared.help
        assert declared.check(declared.default) == declared.default
    for declared in [each for each in options if each.kind is not dict]:
        assert declared.parse(str(declared.default)) == declared.default


@given(
    st.text() | st.sampled_from(("\n", "\t", " ", " AUTO", "\\n")),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_what_is_typed_on_one_line_is_the_value_again(text: str, number: float) -> None:
    template, rate = (
        find_option("data.template"),
        dataclasses.replace(find_option("finetune.learning_rate"), low=None, high=None),
    )
    assert "\n" not in template.typed(text)
    wanted = AUTO if template.typed(text).strip().lower() in ("", AUTO) else text  # a line break is a value
    assert template.parse(template.typed(text)) == wanted
    assert rate.parse(rate.typed(number)) == number


_WRITTEN = recipe_text(Recipe()).encode()
_TOML = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("x" * 5000),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@given(
    st.binary(max_size=200)
    | st.builds(
        lambda at, length, put: _WRITTEN[:at] + put + _WRITTEN[at + length :],
        st.integers(0, len(_WRITTEN)),
        st.integers(0, 40),
        st.binary(max_size=12) | st.sampled_from([b"[", b"[[", b'"""', b"=", b"\0", b"\xff", b"[" * 2000]),
    )
    | st.builds(
        lambda name, value: (
            f"[{name.partition('.')[0]}]\n{name.partition('.')[2]} = {json.dumps(value)}".encode()
        ),
        st.sampled_from([f"{section}.{key}" for section, options in OPTIONS.items() for key in options]),
        _TOML,
    )
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_stands_in_the_file_is_a_recipe_or_is_refused(tmp_path: Path, written: bytes) -> None:
    path = tmp_path / "lab.toml"
    path.write_bytes(written)
    with suppress(RequestError):  # nothing else may be raised
        found = read_recipe(path)
        assert parse_recipe(recipe_text(found), path) == found
    assert path.read_bytes() == written


@pytest.mark.parametrize("name", ["finetune", "finetune.", "finetune.stepz", "x.y", ""])
def test_unknown_options_are_refused(name: str) -> None:
    with pytest.raises(RequestError):
        find_option(name)


def test_a_lab_is_made_once_and_named_when_missing(tmp_path: Path) -> None:
    lab = Lab.create(tmp_path / "a b", data="rows.jsonl", settings={"finetune.steps": 9})
    assert lab.recipe.data.file == "rows.jsonl"
    assert lab.recipe.finetune.steps == 9
    assert lab.recipe.model.source == "rehearsal"
    with pytest.raises(RequestError, match="There is a lab already"):
        Lab.create(tmp_path / "a b")
    with pytest.raises(RequestError, match="olivepress new"):
        Lab.open(tmp_path / "elsewhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="not a folder"):
        Lab.create(tmp_path / "file")


@pytest.mark.parametrize("name", ["data.file", "model.source"])
def test_a_name_that_is_not_utf8_is_refused_and_makes_no_lab(name: str, tmp_path: Path) -> None:
    """Linux lets a file's name be any bytes; ``lab.toml`` cannot hold them."""
    with pytest.raises(RequestError, match="cannot be set") as raised:
        Lab.create(tmp_path / "lab", settings={name: "caf\udce9.jsonl"})
    assert raised.value.code == "recipe.value"
    assert "not UTF-8" in raised.value.detail
    assert not (tmp_path / "lab").exists()


def test_data_given_from_where_one_stands_is_found_from_the_lab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.jsonl").write_text("")
    lab = Lab.create("lab", data="mine.jsonl")
    assert (lab.root / lab.recipe.data.file).samefile(tmp_path / "mine.jsonl")
