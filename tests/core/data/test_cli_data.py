"""`olivepress data`: its object, its exit status, its clean file; the background survey and the preview."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import psutil
import pytest

import core.data
from core.cli import main
from core.data import load_examples, resolve_data_file
from core.data.background import BackgroundSurvey
from core.data.preview import Previewer, preview
from core.data.reader import RowIndex, RowReader
from core.errors import LabError, RequestError
from core.language import LANGUAGES
from core.recipe import Recipe, read_recipe, write_values
from core.resources import data_dir, sample_data
from tests.waiting import until

GOOD = [
    {"prompt": f"How wide is river {word}?", "response": f"River {word} is {i}0 m wide."}
    for i, word in enumerate("abcdefgh")
]


def lab(folder: Path, lines: list[str], more: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "own.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "lab.toml").write_text(f'[model]\nsource = "rehearsal"\n[data]\nfile = "own.jsonl"\n{more}')
    return folder


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Eight good rows, and bad ones on lines 3, 6, 10 and 11."""
    lines = [json.dumps(row) for row in GOOD]
    lines.insert(2, '{"prompt": "broken"')
    lines.insert(5, json.dumps({"prompt": "Where?", "response": "Here \x1b[31m\u202e[/red] [bold]."}))
    lines += [json.dumps(GOOD[0]), json.dumps({"prompt": "x", "response": ""})]
    return lab(tmp_path / "lab", lines)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    status = main(["data", *arguments])
    return status, json.loads(capsys.readouterr().out)


def test_the_object_has_what_the_design_promises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = run(capsys, str(lab(tmp_path, [json.dumps(row) for row in GOOD])), "--json")
    assert status == 0
    assert report["rows"] == 8
    assert report["fields"] == ["prompt", "response"]
    assert (report["template"], report["chat_template"]) == ("auto", True)
    assert (
        report["tokens"]["total"]
        >= report["tokens"]["max"]
        >= report["tokens"]["p95"]
        >= report["tokens"]["p50"]
        > 0
    )
    assert (report["train"], report["eval"]) == (7, 1)
    assert report["findings"] == []
    assert report["epochs"] > 0
    assert 0 <= report["padding"] < 1


def test_findings_are_all_given_and_the_status_is_2(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = run(capsys, str(mixed), "--json")
    assert status == 2
    found = [(each["file"], each["line"], each["kind"], each["level"]) for each in report["findings"]]
    assert found == [
        ("own.jsonl", 3, "broken-json", "error"),
        ("own.jsonl", 6, "control-characters", "warning"),
        ("own.jsonl", 11, "duplicate", "warning"),
        ("own.jsonl", 12, "empty-field", "error"),
    ]
    assert all(each["message"] and each["fix"] for each in report["findings"])


def test_the_words_for_people_are_harmless(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = json.dumps({"prompt": "What?", "response": "That.", "\x1b]0;title\x07name": "x"})
    (mixed / "own.jsonl").write_text((mixed / "own.jsonl").read_text() + "\n" + odd)
    assert main(["data", str(mixed)]) == 2
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "own.jsonl:3: broken-json" in out
    assert "#" in out  # the histogram
    assert "held out" in out


def test_clean_leaves_bad_rows_out_and_says_why(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = mixed / "clean.jsonl"
    status, report = run(capsys, str(mixed), "--json", "--clean", str(out))
    assert status == 0
    assert (report["clean"]["kept"], report["clean"]["left_out"]) == (8, 4)
    assert [row.fields for row in RowReader(out)] == GOOD
    left = [json.loads(line) for line in Path(f"{out}.left-out.jsonl").read_text().splitlines()]
    assert [each["line"] for each in left] == [3, 6, 11, 12]
    assert left[0]["why"][0].startswith("broken-json: ")
    assert left[2]["row"] == GOOD[0]
    assert sorted(path.name for path in mixed.iterdir() if path.name.startswith(".")) == [".olivepress"]
    recipe = read_recipe(mixed / "lab.toml").with_values({"data.file": "clean.jsonl"})
    split = load_examples(recipe, mixed)
    assert len(split.train) + len(split.eval) == 8


def test_clean_can_keep_kinds(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = mixed / "clean.jsonl"
    _, report = run(
        capsys, str(mixed), "--json", "--clean", str(out), "--keep", "duplicate,control-characters"
    )
    assert (report["clean"]["kept"], report["clean"]["left_out"]) == (10, 2)


@pytest.mark.parametrize("name", ["own.jsonl", "clean.csv", "."])
def test_clean_refuses_bad_places(mixed: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(mixed.iterdir())
    data = (mixed / "own.jsonl").read_bytes()
    assert main(["data", str(mixed), "--json", "--clean", str(mixed / name)]) == 2
    assert "cannot be written there" in capsys.readouterr().err
    assert (mixed / "own.jsonl").read_bytes() == data
    remembered = {mixed / ".olivepress", mixed / "data_split.json"}
    assert set(mixed.iterdir()) - set(before) <= remembered


@pytest.mark.parametrize("kinds", ["broken-json", "nonsense", "duplicate,nonsense"])
def test_only_rows_that_training_can_use_are_kept(
    mixed: Path, kinds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", str(mixed), "--clean", str(mixed / "clean.jsonl"), "--keep", kinds]) == 2
    assert "near-duplicate" in capsys.readouterr().err
    assert not (mixed / "clean.jsonl").exists()


def test_deep_nesting_is_refused_before_it_breaks_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.dumps(row) for row in GOOD]
    depths = [2, 150, 198, 201, 500, 900, 990, 996, 1005, 5000]
    lines += [f'{{"prompt": "a{n}", "response": "b \\u00e9 {n}", "x": {"[" * n}{"]" * n}}}' for n in depths]
    folder = lab(tmp_path, lines)
    status, report = run(capsys, str(folder), "--json", "--clean", str(folder / "clean.jsonl"))
    assert status == 0
    assert {(each["line"], each["kind"]) for each in report["findings"]} == {
        (n, "broken-json") for n in range(12, 19)
    }
    assert report["clean"]["kept"] == 11
    (folder / "deep.json").write_text("[" + ",\n".join(lines) + "]")
    with RowIndex(folder / "deep.json") as pager:
        assert [row.problem is None for row in pager.rows(0, 100)] == [True] * 11 + [False] * 7


def test_a_pipe_is_no_data_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(RequestError, match="no file"):
        resolve_data_file(Recipe().with_values({"data.file": "pipe.jsonl"}), tmp_path)
    with pytest.raises(RequestError, match="does not exist"):
        resolve_data_file(Recipe().with_values({"data.file": "a\0b"}), tmp_path)


def test_a_missing_file_is_named_with_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = lab(tmp_path, [])
    (folder / "own.jsonl").unlink()
    assert main(["data", str(folder), "--json"]) == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out)["error"]["title"] == "The data file does not exist."
    assert "own.jsonl" in printed.err


def test_the_bundled_file_is_found_by_its_name(tmp_path: Path) -> None:
    path = resolve_data_file(Recipe(), tmp_path)
    assert path.name == "data_sample_travel.jsonl"
    (tmp_path / path.name).write_text("{}")
    assert resolve_data_file(Recipe(), tmp_path) == tmp_path / path.name  # one's own comes first


@pytest.mark.parametrize("language", LANGUAGES)
def test_new_takes_the_sample_in_the_language_asked_for(tmp_path: Path, language: str) -> None:
    assert main(["new", str(tmp_path), "--language", language]) == 0
    recipe = read_recipe(tmp_path / "lab.toml")
    assert resolve_data_file(recipe, tmp_path) == sample_data(language)
    assert (recipe.data.file == Recipe().data.file) == (language == "en")
    rows = [json.loads(line) for line in sample_data(language).read_text(encoding="utf-8").splitlines()]
    assert len({row["prompt"] for row in rows}) == len(rows) >= 60
    assert all(set(row) == {"prompt", "response"} and min(map(len, row.values())) > 5 for row in rows)
    assert all(unicodedata.is_normalized("NFC", text) for row in rows for text in row.values())


def test_a_name_near_that_of_a_sample_is_none(tmp_path: Path) -> None:
    for name in ("data_sample_travel.xx.jsonl", "../data/data_sample_travel.de.jsonl", "README.md"):
        assert (data_dir() / "README.md").is_file()
        with pytest.raises(RequestError):
            resolve_data_file(Recipe().with_values({"data.file": name}), tmp_path)


def wait(survey: BackgroundSurvey) -> Any:
    until(lambda: survey.poll().state != "running")
    return survey.poll()


def test_the_survey_in_the_background_gives_the_same(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, report = run(capsys, str(mixed), "--json")
    survey = BackgroundSurvey(mixed)
    try:
        state = wait(survey)
        assert state.state == "done", state.error
        for name in ("rows", "tokens", "train", "eval", "counts", "proposal"):
            assert state.report[name] == report[name]
        assert [each.as_dict() for each in survey.findings()] == report["findings"]
        assert [each.line for each in survey.findings(1, 2)] == [6, 11]
        assert state.phase == "" or state.done
    finally:
        survey.close()
    with pytest.raises(LabError):
        survey.findings()


def test_the_survey_in_the_background_fails_in_words(tmp_path: Path) -> None:
    folder = lab(tmp_path, [])
    (folder / "own.jsonl").unlink()
    survey = BackgroundSurvey(folder)
    try:
        state = wait(survey)
        assert state.state == "failed"
        assert isinstance(state.error, RequestError)
        assert "own.jsonl" in state.error.detail
    finally:
        survey.close()


def test_the_survey_in_the_background_is_cancelled(tmp_path: Path) -> None:
    folder = lab(
        tmp_path, [json.dumps({"prompt": f"What is {i}?", "response": "x " * 200}) for i in range(30_000)]
    )
    survey = BackgroundSurvey(folder)
    try:
        survey.cancel()
        assert wait(survey).state == "cancelled"
    finally:
        survey.close()


def test_the_survey_in_the_background_ends_with_its_starter(tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": f"What is {i}?", "response": "x y z " * 100}) for i in range(60_000)]
    folder = lab(tmp_path, lines)
    code = (
        "import sys, time; from pathlib import Path; from core.data.background import BackgroundSurvey\n"
        "survey = BackgroundSurvey(Path(sys.argv[1]))\n"
        "while not survey.poll().done: time.sleep(0.01)\n"
        "print(survey._child.pid, flush=True); time.sleep(60)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    pid = starter.stdout.readline()
    starter.kill()
    starter.wait()
    starter.stdout.close()
    until(
        lambda: not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE
    )


def test_what_is_not_used_and_not_learnt_stands_in_words_and_in_the_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {**row, "id": i, "guide": f"Page {i} of the long guide.", "label": i > 1}
        for i, row in enumerate(GOOD)
    ]
    folder = lab(tmp_path, [json.dumps(row) for row in rows])
    assert main(["data", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "not used    'id', 'guide'\n" in out
    assert "not learnt  2 rows: 'label' says no\n" in out
    assert "not-used: 'guide' in 6 rows does not reach the model" in out
    assert "--clean" not in out  # no row is bad
    _, report = run(capsys, str(folder), "--json")
    assert [(each["what"], each["name"], each["rows"], each["matters"]) for each in report["not_used"]] == [
        ("column", "id", 6, False),
        ("column", "guide", 6, True),
    ]
    assert report["not_learnt"] == {"'label' says no": 2}


def test_a_choice_is_asked_for_with_its_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"khách": row["prompt"], "chủ nhà": row["response"]} for row in GOOD]
    folder = lab(tmp_path, [json.dumps(row) for row in rows])
    assert main(["data", str(folder)]) == 2
    out = capsys.readouterr().out
    assert "--accept" in out
    assert "--set 'data.prompt_field=khách' --set 'data.response_field=chủ nhà'" in out


def test_a_backslash_and_an_n_are_not_shown_as_a_line_break(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.dumps(row) for row in GOOD]
    folder = lab(tmp_path, lines, "template = 'Q: {prompt}\\nA: {response}<|end|>'\n")
    main(["data", str(folder)])
    out = capsys.readouterr().out
    assert r"template  Q: {prompt}\\nA: {response}" in out
    assert "template-model: data.template has a backslash and an n" in out
    folder = lab(tmp_path, lines, 'template = "Q: {prompt}\\nA: {response}<|end|>"\n')
    main(["data", str(folder)])
    out = capsys.readouterr().out
    assert r"template  Q: {prompt}\nA: {response}" in out
    assert "nothing to mend" in out


def test_a_clean_file_without_a_row_is_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = lab(tmp_path, [json.dumps({"prompt": "Where is it?", "response": None})] * 3)
    assert main(["data", str(folder)]) == 2
    assert "--clean" not in capsys.readouterr().out
    assert main(["data", str(folder), "--clean", str(folder / "clean.jsonl")]) == 2
    assert "no row" in capsys.readouterr().err
    assert not (folder / "clean.jsonl").exists()


def test_cleaning_leaves_the_other_rows_of_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = lab(tmp_path, [])
    (folder / "own.json").write_text(json.dumps([*GOOD[:3], {"prompt": "Why?", "response": ""}, *GOOD[3:]]))
    write_values(folder / "lab.toml", {"data.file": "own.json"})
    _, report = run(capsys, str(folder), "--json", "--clean", str(folder / "clean.jsonl"))
    assert (report["clean"]["kept"], report["clean"]["left_out"]) == (8, 1)
    assert [row.fields for row in RowReader(folder / "clean.jsonl")] == GOOD


def test_a_preview_marks_answer_and_special_tokens(tmp_path: Path) -> None:
    folder = lab(tmp_path, [json.dumps(row) for row in GOOD])
    shown = preview(folder, read_recipe(folder / "lab.toml"), {"prompt": "Why?", "response": "Because."})
    assert [(piece.text, piece.kind, piece.trained) for piece in shown.pieces] == [
        ("<|user|>", "special", False),
        ("\nWhy?", "prompt", False),
        ("<|end|>", "special", False),
        ("\n", "prompt", False),
        ("<|assistant|>", "special", False),
        ("\n", "prompt", False),
        ("Because.", "answer", True),
        ("<|end|>", "special", True),
        ("\n", "prompt", False),
    ]
    assert (
        preview(folder, read_recipe(folder / "lab.toml"), {"prompt": "Why?"}).problems[0].kind
        == "missing-field"
    )


def test_a_preview_of_fields_to_confirm_shows_the_proposal(tmp_path: Path) -> None:
    rows = [{"khách": row["prompt"], "chủ nhà": row["response"]} for row in GOOD]
    folder = lab(tmp_path, [json.dumps(row) for row in rows])
    previewer = Previewer(folder, read_recipe(folder / "lab.toml"))
    assert previewer.problem is not None
    assert "How wide is river a?" in previewer.row(rows[0]).text
    assert previewer.proposal.mapping.response == "chủ nhà"


def test_every_kind_of_finding_is_in_the_guide() -> None:
    from core.data.types import BLOCKING, WARNINGS

    guide = (Path(__file__).resolve().parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (error|warning) \|", guide, re.MULTILINE))
    assert {kind for kind, level in rows.items() if level == "error"} == BLOCKING
    assert {kind for kind, level in rows.items() if level == "warning"} == WARNINGS
    for path in (Path(core.data.__file__).parent).glob("*.py"):
        for kind in re.findall(r'Problem\(\s*"([a-z0-9-]+)"|, "([a-z]+-[a-z-]+)", message', path.read_text()):
            assert (kind[0] or kind[1]) in rows, path.name


@pytest.mark.parametrize(
    ("text", "title", "detail"),
    [
        (b"", "The data file has no records.", "is empty"),
        (b"\n \n", "The data file has no records.", "blank lines"),
        (
            '{"question": "O\u00f9?", "answer": "L\u00e0."}\n'.encode("latin-1"),
            "No record of the data file can be read.",
            "is not UTF-8",
        ),
    ],
)
def test_a_file_without_a_readable_record_is_called_so(
    tmp_path: Path, text: bytes, title: str, detail: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = lab(tmp_path, [])
    (folder / "own.jsonl").write_bytes(text)
    previewer = Previewer(folder, read_recipe(folder / "lab.toml"))
    assert previewer.problem is not None
    assert previewer.problem.title == title
    assert detail in previewer.problem.detail
    assert main(["data", str(folder), "--accept"]) == 2
    assert title in capsys.readouterr().err


def test_a_text_column_that_no_template_can_name_is_to_be_renamed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"my {text}": f"Once upon a time there were {n} of them."} for n in range(5)]
    folder = lab(tmp_path, [json.dumps(row) for row in rows])
    assert main(["data", str(folder), "--accept"]) == 2
    told = capsys.readouterr().err
    assert "nothing to accept" in told
    assert "rename it" in told
