"""report.html: what it says of a lab, that it loads nothing, and that foreign text stays text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import language
from core.files import MANIFEST, write_json
from core.folder import LabFolder
from core.lab import Lab
from core.language import LANGUAGES
from core.recipe import Recipe
from core.report import report_text, with_upload
from core.report_page import page, write_report
from core.searched import Board, Try, write_board
from tests.tui.labs import with_evaluation

CURVE = [[step, 3.0 / step] for step in range(1, 61)]
HELD = [[0, 3.3], [20, 1.4], [40, 1.1], [60, 1.2]]
ANSWERS = {"question": "Where?", "base": "In the big city, I think.", "tuned": "In the old city, by the sea."}


def lab_of(root: Path, **answers: Any) -> LabFolder:
    """A lab with a result of every stage, as manifests alone."""
    lab = LabFolder(root)
    results: dict[str, dict[str, Any]] = {
        "quantized": {
            "algorithm": "awq",
            "bits": 4,
            "bytes_before": 4_000_000,
            "bytes_after": 1_000_000,
            "same_likeliest_token": 0.9,
            "measured_tokens": 1000,
        },
        "finetuned/travel": {
            "adapter": "travel",
            "eval_loss_base": 3.3,
            "eval_loss_tuned": 1.2,
            "steps": 60,
            "loss_curve": CURVE,
            "eval_curve": HELD,
        },
        "onnx": {
            "base_bytes": 1_100_000,
            "adapter_bytes": 90_000,
            "tokens_per_s_base": 120.0,
            "tokens_per_s_tuned": 97.7,
            "answers": {**ANSWERS, **answers},
        },
    }
    for name, result in results.items():
        folder = lab.models_dir / name
        folder.mkdir(parents=True)
        write_json(folder / MANIFEST, {"result": result, "fingerprint": {"versions": {"torch": "2.13.0"}}})
    return lab


class Seen(HTMLParser):
    """The tags and the texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.inside: list[str] = []
        self.words: dict[str, list[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.inside:
            del self.inside[len(self.inside) - 1 - self.inside[::-1].index(tag) :]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.inside:
            self.words.setdefault(self.inside[-1], []).append(data)


def test_the_page_says_what_the_lab_gave(tmp_path: Path) -> None:
    text = page(lab_of(tmp_path / "lab"), Recipe())
    seen = Seen(text)
    said = " ".join(" ".join(seen.texts).split())
    assert "4.0 times smaller" in said
    assert "held-out loss, lowest at step 40 (1.10)" in said
    assert "float: 3.8 MiB" in said
    assert "base: 120" in said
    assert "with adapter: 97.7" in said
    assert seen.words["del"] == ["big", "I think"]
    assert seen.words["ins"] == ["old", "by the sea"]
    assert "olivepress run lab quantize finetune optimize" in said
    assert said.count("torch 2.13.0") == 3


def test_it_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    seen = Seen(page(lab_of(tmp_path / "lab"), Recipe()))
    assert not {tag for tag, _ in seen.tags} & {"script", "link", "img", "iframe", "object", "a", "form"}
    assert not [
        value for _, given in seen.tags for name, value in given.items() if name in ("src", "href", "style")
    ]
    assert not [name for _, given in seen.tags for name in given if name.startswith("on")]


def test_what_a_search_found_stands_in_both_reports(tmp_path: Path) -> None:
    lab = lab_of(tmp_path / "lab")
    tries = (
        Try(1, "gptq, <b>4 bits", {}, "measured", size=2**20, loss=0.05, part=1.0, front=True),
        Try(2, "rtn, 4 bits", {}, "dropped", "others do better", 2**20, 0.5, part=0.25),
        Try(3, "gptq, 8 bits", {}, "measured", size=2**21, loss=0.01, part=1.0, front=True),
        Try(4, "awq, 4 bits", {}, "refused", "too large", 2**22),
    )
    write_board(lab, Board("quantize", "at most 1 MiB", tries, 1, True, model="rehearsal"))
    seen = Seen(page(lab, Recipe()))
    said = " ".join(" ".join(seen.texts).split())
    assert "Best within the limits (at most 1 MiB): gptq, <b>4 bits. It is one of 4 choices" in said
    assert "In orange the best, gptq, <b>4 bits: 1.0 MiB, 0.050" in said
    assert [given["class"] for tag, given in seen.tags if tag == "circle"].count("guess") == 1
    text = report_text(lab, Recipe())
    assert "## Search, Quantize" in text
    assert "| \\* | 1 | gptq, \\<b\\>4 bits | 1.0 MiB | 0.050 |  |" in text
    assert "|  | 2 | rtn, 4 bits | 1.0 MiB | ~0.500 | others do better |" in text
    assert "1 further choice of 4.0 MiB and more: too large." in text
    other = Recipe().with_values({"model.source": "another"})  # it would be no search of this model
    assert "Search, Quantize" not in report_text(lab, other) + page(lab, other)


@settings(max_examples=30, deadline=None)
@given(text=st.text(min_size=1, max_size=60), other=st.text(min_size=1, max_size=60))
def test_foreign_text_is_text(tmp_path_factory: Any, text: str, other: str) -> None:
    root = tmp_path_factory.mktemp("page")
    plain = Seen(page(lab_of(root / "a", base="x", tuned="y"), Recipe()))
    foreign = f"</script><script>alert(1)</script>{text}"
    hostile = Recipe().with_values({"model.source": "m", "data.file": f"<b>{other}".replace("\x00", "")})
    lab = lab_of(
        root / "b", question=foreign, base=f"<img src=x onerror=y> {other}", tuned=f"<svg onload=z>{text}"
    )
    seen = Seen(page(lab, hostile))
    marks = {"del", "ins"}  # of the words that differ
    assert {tag for tag, _ in seen.tags} - marks == {tag for tag, _ in plain.tags} - marks
    assert "\x1b" not in "".join(seen.texts)


def test_an_empty_lab_and_odd_figures_give_a_page(tmp_path: Path) -> None:
    assert "Do it again" in page(LabFolder(tmp_path / "empty"), Recipe())
    lab = LabFolder(tmp_path / "odd")
    for name, result in {
        "finetuned/travel": {"loss_curve": [[1, "x"], 3, [2, float("nan")]], "eval_curve": {"a": 1}},
        "onnx": {"base_bytes": True, "tokens_per_s_base": "fast", "answers": [1]},
    }.items():
        (lab.models_dir / name).mkdir(parents=True)
        write_json(lab.models_dir / name / MANIFEST, {"result": result})
    assert "<svg" not in page(lab, Recipe())


def test_a_constant_loss_is_drawn(tmp_path: Path) -> None:
    lab = LabFolder(tmp_path / "lab")
    folder = lab.models_dir / "finetuned" / "travel"
    folder.mkdir(parents=True)
    write_json(folder / MANIFEST, {"result": {"loss_curve": [[1, 2.0], [2, 2.0]]}})
    places = re.findall(r'class="raw" points="([^"]+)"', page(lab, Recipe()))
    assert len(places) == 1
    assert len({place.split(",")[1] for place in places[0].split()}) == 1


def test_both_reports_are_written_and_whose_subscription_it_was_is_not_in_the_page(tmp_path: Path) -> None:
    lab = lab_of(tmp_path / "lab")
    recipe = Recipe().with_values({"upload.subscription": "0000-secret-1111", "upload.workspace": "my-space"})
    write_report(lab, recipe)
    written = lab.report_page_path.read_text(encoding="utf-8")
    assert lab.report_path.read_text(encoding="utf-8").startswith("# lab\n")
    assert "0000-secret-1111" not in written
    assert "my-space" not in written


def test_a_result_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    lab = lab_of(tmp_path / "lab")
    (lab.models_dir / "quantized" / MANIFEST).write_text("{")
    said = " ".join(Seen(page(lab, Recipe())).texts)
    assert "Quantized model: " in said
    assert "olivepress.json" in said


def test_half_a_character_in_an_answer_breaks_no_report(tmp_path: Path) -> None:
    lab = lab_of(tmp_path / "lab", base="a \ud83d b", tuned="\ude00")
    write_report(lab, Recipe())
    assert "a \\ud83d b" in lab.report_page_path.read_text(encoding="utf-8")
    assert "ud83d b" in lab.report_path.read_text(encoding="utf-8")


def test_of_two_adapters_the_one_that_the_recipe_names_is_drawn_and_each_is_named(tmp_path: Path) -> None:
    lab = lab_of(tmp_path / "lab")
    folder = lab.models_dir / "finetuned/zebra"
    folder.mkdir()
    zebra = {
        "eval_loss_base": 3.0,
        "eval_loss_tuned": 2.5,
        "loss_curve": CURVE,
        "eval_curve": [[0, 3.0], [9, 2.5]],
    }
    write_json(folder / MANIFEST, {"result": zebra})
    (lab.models_dir / "finetuned/broken").mkdir()
    write_json(lab.models_dir / "finetuned/broken" / MANIFEST, {"result": ["no", "result"]})
    text = page(lab, Recipe())
    assert "lowest at step 40 (1.10)" in text
    assert "lowest at step 9 (2.50)" in page(lab, Recipe().with_values({"finetune.adapter": "zebra"}))
    assert ">Adapter travel: Held-out loss 3.30 to 1.20" in text
    assert "Adapter zebra: Held-out loss 3.00 to 2.50" in text
    assert "Its weights were rounded to 4 bits. It was made an ONNX model of 1.0 MiB." in text


def test_an_evaluation_stands_first_with_a_table_charts_and_answers(tmp_path: Path) -> None:
    lab = lab_of(tmp_path)
    answers = [
        {
            "question": "Where <b>?",
            "expected": "By the sea.",
            "answers": {"float": "A b", "onnx_tuned": "A c"},
        }
    ]
    rows = [("Where?", "By the sea.", "A b", "A c")]
    with_evaluation(Lab(lab), rows, answers=answers, kl_by_layer=[0.1, 0.4, 0.2])
    write_report(lab, Recipe())
    text = lab.report_page_path.read_text()
    seen = Seen(text)
    verdict = text[text.index('class="verdict"') :]
    assert verdict.index("Perplexity on held-out records 25.4 before") < verdict.index("times smaller")
    titles = seen.words["figcaption"]
    assert titles == [
        "Perplexity on held-out records",
        "Perplexity on general text",
        "Loss",
        "Divergence by layer",
        "Size",
        "Memory",
        "Tokens a second",
    ]
    assert "most in layer 2 (0.400)" in text
    assert "Not measured: with adapter: There is not enough memory." in text
    assert "Where <b>?" in seen.texts
    assert {"b", "c"} <= {word.strip() for word in seen.words["del"] + seen.words["ins"]}
    assert seen.words["td"].count("25.4") == seen.words["span"].count("(20.3 to 31.8)") == 1
    assert seen.words["p"].count("It was worth it") == 1
    told = lab.report_path.read_text()
    assert "## Evaluation travel" in told
    assert "| Perplexity on held-out records | 25.4 (20.3 to 31.8) | 27.9" in told
    assert "`models/onnx`" in told
    assert r"data\_sample" not in told


@pytest.mark.parametrize("code", LANGUAGES)
def test_the_reports_are_in_the_language_wanted_by_the_user_and_the_program_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    lab = lab_of(tmp_path)
    monkeypatch.setenv(language.VARIABLE, code)
    write_report(lab, Recipe())
    assert language.in_use() == "en"
    direction = "rtl" if code == "fa" else "ltr"
    assert f'<html lang="{code}" dir="{direction}">' in lab.report_page_path.read_text()
    sent = with_upload(lab.report_path.read_text(), {"name": "m", "version": "1"})
    with language.speaking(code):
        again = with_upload(sent, {"name": "m", "version": "2"})
    assert with_upload(again, None) == lab.report_path.read_text(), (
        "one part on uploads, in whatever language"
    )
