"""The command line: words, help, where output goes, statuses. What stages do through it is tested end to end."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import Cancelled, Lab, LabError, MachineError, RequestError, StageError
from core.cli import main
from core.cli.commands import COMMANDS, wizard_folder
from core.cli.parser import UsageError, actions_of, command_parser, parse, parse_settings
from core.cli.run import split_words
from core.cli.show import EventPrinter, print_error
from core.stages import STAGES, default_stages
from core.version import __version__
from tests.core.stale_labs import make_anew

ROOT = Path(__file__).resolve().parents[3]
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OLIVEPRESS_PLUGIN", "tests.fake_stages.plugin")
    return tmp_path


@pytest.fixture
def make(here: Path) -> Callable[[str], Lab]:
    """A lab in ``lab`` whose stages are the quick ones of tests.fake_stages."""
    return lambda mode: Lab.create(here / "lab", settings={"chat.system": mode})


# --- words ------------------------------------------------------------------------------------------


def test_every_command_of_the_contract_is_there_and_helps(capsys: Captured) -> None:
    promised = {
        "new",
        "check",
        "data",
        "run",
        "status",
        "logs",
        "cancel",
        "chat",
        "serve",
        "upload",
        "export",
    }
    assert promised <= set(COMMANDS)
    for command in COMMANDS:
        with pytest.raises(SystemExit) as left:
            main([command, "--help"])
        assert left.value.code == 0
        shown = capsys.readouterr()
        assert f"usage: olivepress {command}" in shown.out
        assert not shown.err
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^    {command}\b", text, re.MULTILINE) for command in COMMANDS)
    assert "130 cancelled" in text


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("check", ("--json",)),
        ("data", ("--json",)),
        ("run", ("--detach", "--force", "--json")),
        ("status", ("--json",)),
        ("upload", ("--dry-run", "--json")),
        ("chat", ("--adapter=a", "--compare", "--prompt=x", "--json")),
        ("chat", ("--no-adapter",)),
    ],
)
def test_the_contracts_options_are_taken(command: str, options: tuple[str, ...]) -> None:
    for words in (["some-lab", *options], [*options, "some-lab"]):
        parsed = parse([command, *words])
        for option in options:
            assert getattr(parsed, option[2:].split("=")[0].replace("-", "_"))


def test_it_says_its_version(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"olivepress {__version__}\n"


@pytest.mark.parametrize("words", [["run", "--quick"], ["logs"], ["new"], ["--colour"]])
def test_options_that_do_not_exist_or_are_missing_exit_2(words: list[str], capsys: Captured) -> None:
    assert main(words) == 2
    shown = capsys.readouterr()
    assert "usage: olivepress" in shown.err
    assert not shown.out


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        ([], "."),
        (["my-lab"], "my-lab"),
        (["run"], None),
        (["--version"], None),
        (["my-lab", "x"], None),
        (["--plain"], "."),
        (["my-lab", "--plain"], "my-lab"),
        (["run", "--plain"], None),
    ],
)
def test_the_wizard_opens_on_a_folder_and_nothing_else(words: list[str], folder: str | None) -> None:
    assert wizard_folder(words) == folder


@pytest.mark.parametrize(
    ("words", "folder", "stages"),
    [
        ([], ".", ["quantize", "finetune", "optimize"]),
        (["lab"], "lab", ["quantize", "finetune", "optimize"]),
        (["finetune"], ".", ["finetune"]),
        (["lab", "finetune", "optimize"], "lab", ["finetune", "optimize"]),
        (["./finetune", "optimize"], "./finetune", ["optimize"]),
    ],
)
def test_a_folder_may_stand_before_the_stages(words: list[str], folder: str, stages: list[str]) -> None:
    assert split_words(words, default_stages()) == (folder, stages)


def test_a_word_that_is_no_stage_is_refused_with_those_there_are() -> None:
    with pytest.raises(RequestError) as caught:
        split_words(["lab", "finetune", "quantise"], ())
    assert "quantise" in caught.value.title
    assert all(stage in caught.value.hint for stage in STAGES)


def test_settings_are_read_by_their_types() -> None:
    words = ["finetune.steps=10", "finetune.learning_rate=1e-3", "quantize.algorithm=rtn", "chat.system=a=b"]
    assert parse_settings(words) == {
        "finetune.steps": 10,
        "finetune.learning_rate": 1e-3,
        "quantize.algorithm": "rtn",
        "chat.system": "a=b",
    }


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("finetune.steps", "has no value"),
        ("finetune.steps=ten", "finetune.steps"),
        ("finetune.steps=0", "finetune.steps"),
        ("quantize.algorithm=best", "awq"),
        ("nonsense.key=1", "nonsense"),
    ],
)
def test_wrong_settings_are_refused(word: str, says: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_settings([word])
    assert says in str(caught.value)


@given(st.data())
def test_options_stand_anywhere(data: st.DataObject) -> None:
    stages = data.draw(st.lists(st.sampled_from(list(STAGES)), unique=True))
    folder = data.draw(st.sampled_from([[], ["lab"], ["a b/"], ["./quantize"]]))
    flags = data.draw(st.lists(st.sampled_from(["--force", "--no-check", "--json", "--detach"]), unique=True))
    words = [*folder, *stages]
    for flag in flags:
        words.insert(data.draw(st.integers(0, len(words))), flag)
    parsed = parse(["run", *words])
    assert parsed.words == [*folder, *stages]
    for flag in ("force", "no_check", "json", "detach"):
        assert getattr(parsed, flag) == (f"--{flag.replace('_', '-')}" in flags)


@pytest.mark.parametrize(
    "words",
    [
        ["new", "--model", "M", "DIR", "--data", "D", "--set", "a=1", "--set", "b=2"],
        ["new", "DIR", "--data=D", "--model=M", "--set", "a=1", "b=2"],
        ["new", "--set", "a=1", "b=2", "DIR", "--model", "M", "--data", "D"],
        ["new", "--set=a=1", "b=2", "--data", "D", "--", "DIR"],
        ["--data", "D", "new", "DIR", "--set", "a=1", "--set", "b=2"],
    ],
)
def test_options_with_values_stand_anywhere(words: list[str]) -> None:
    parsed = parse(words)
    assert (parsed.folder, parsed.data, parsed.set) == ("DIR", "D", ["a=1", "b=2"])


@pytest.mark.parametrize(
    "words", [["--follow", "DIR", "JOB"], ["DIR", "-f", "JOB"], ["DIR", "JOB", "--follow"]]
)
def test_following_a_log(words: list[str]) -> None:
    parsed = parse(["logs", *words])
    assert (parsed.words, parsed.follow) == (["DIR", "JOB"], True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "lab", "quantise"], ["no stage 'quantise'", "Did you mean quantize?"]),
        (["run", "quantise"], ["neither a stage nor a folder", "olivepress run quantize"]),
        (["run", "lab", "Finetune"], ["Did you mean finetune?"]),
        (["run", "quantize", "lab"], ["The lab's folder comes first: olivepress run lab quantize"]),
        (["run", "lab", "check"], ["olivepress check lab"]),
        (["run", "."], ["There is no lab here", "olivepress new"]),
        (["run", "finetune"], ["There is a folder of that name", "olivepress run ./finetune"]),
        (["run", "lab", "--forse"], ["usage: olivepress run", "Did you mean --force?"]),
        (["quantize", "lab"], ["quantize is a stage", "olivepress run lab quantize"]),
        (["rum", "lab"], ["no command 'rum'", "olivepress run lab"]),
        (["lab", "run"], ["The command comes first", "olivepress run lab"]),
        (["quantise"], ["olivepress run quantize"]),
        (["chekc"], ["olivepress check"]),
        (["check", "rows.jsonl"], ["is a file"]),
        (["status", "lab/lab.toml"], ["is a file", "Name the folder that it stands in"]),
        (["rows.jsonl"], ["is not a folder"]),
        (["logs", "lab"], ["Which job?", "None has run"]),
        (["logs", "quantize-001", "lab"], ["olivepress logs lab quantize-001"]),
        (["logs", "lab", "a", "b"], ["Too many words"]),
        (["logs"], ["usage: olivepress logs", "JOB"]),
        (["check", "lab", "more"], ["usage: olivepress check", "Not understood: more"]),
        (["check", ""], ["usage: olivepress check", "DIR", "empty"]),
        (["new", "x", "--set", "quantize.bits", "4"], ["--set quantize.bits=4"]),
        (["new", "x", "--set", "quantize.bits", "=", "4"], ["--set quantize.bits=4"]),
        (["new", "x", "--set", "data.template", "a b"], ["--set 'data.template=a b'"]),
        (["new", "x", "--set", "finetune.steps=1,000"], ["without commas: 1000"]),
        (["new", "x", "--set", "chat.temperature=0,7"], ["with a point: 0.7"]),
        (["new", "x", "--set", "data.eval_fraction=-1"], ["0 to 0.9"]),
        (["new", "x", "--set", "finetune.steps", "-5"], ["--set finetune.steps=-5"]),
        (["upload", "lab", "--concurrency", "1,000"], ["--concurrency", "without commas: 1000"]),
        (["evaluate", "lab", "--rows", "-5"], ["--rows", "at least 1"]),
        (["chat", "lab", "--prompt", "-x"], ["--prompt needs a value", "--prompt=VALUE"]),
        (["chat", "lab", "--prompt", "x", "--set", "temprature=1"], ["Did you mean temperature?"]),
        (["chat", "lab", "--prompt", "x", "--set", "finetune.steps=1"], ["no setting finetune.steps"]),
        (["login", "--method", "browser"], ["usage: olivepress login", "--method", "device"]),
    ],
)
def test_habits_that_are_wrong_here_are_answered(
    words: list[str], says: list[str], here: Path, capsys: Captured
) -> None:
    Lab.create("lab")
    Lab.create("finetune")
    (here / "rows.jsonl").write_text("{}\n")
    assert main(words) == 2
    shown = capsys.readouterr()
    assert not shown.out
    for part in says:
        assert part in shown.err


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["help"], "usage: olivepress [-h]"),
        (["help", "run"], "usage: olivepress run"),
        (["--help", "run"], "usage: olivepress run"),
        (["run", "lab", "--help"], "usage: olivepress run"),
    ],
)
def test_help_is_given_where_it_is_asked_for(words: list[str], shown: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith(shown)


def test_a_home_and_slashes_are_understood(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    assert main(["new", "~/lab/"]) == 0
    assert (here / "lab/lab.toml").is_file()
    for folder in ("~/lab", "lab/", "./lab//", str(here / "lab")):
        assert main(["status", folder]) == 0
        assert main(["run", folder, "quantize", "--no-check"]) == 0
    assert main(["export", "lab", "--olive", "~/flow.json"]) == 0
    assert (here / "flow.json").is_file()


def test_a_lab_with_the_name_of_a_stage_is_reached(here: Path, capsys: Captured) -> None:
    assert main(["new", "quantize"]) == 0
    assert "olivepress run ./quantize" in capsys.readouterr().out
    assert main(["run", "./quantize", "quantize", "--no-check"]) == 0


def test_line_breaks_are_typed_with_a_backslash(here: Path) -> None:
    assert main(["new", "a", "--set", r"data.template=A: {x}\nB:\t{y}", r"chat.system=C:\\new \d"]) == 0
    assert main(["new", "b", "--set", "data.template=A: {x}\nB:\t{y}"]) == 0
    recipe = Lab.open("a").recipe
    assert recipe.data.template == Lab.open("b").recipe.data.template == "A: {x}\nB:\t{y}"
    assert recipe.chat.system == r"C:\new \d"
    assert parse_settings([r"system=a\nb", "top_k=3"], "chat") == {"chat.system": "a\nb", "chat.top_k": 3}
    assert main(["data", "b", "--set", r"template=Q: {prompt}\nA: {response}"]) == 0
    assert Lab.open("b").recipe.data.template == "Q: {prompt}\nA: {response}"
    assert parse_settings([r"data.file=a\nb"]) == {"data.file": r"a\nb"}


# --- making a lab, here and elsewhere ---------------------------------------------------------------


def test_new_takes_paths_as_seen_from_where_one_stands(here: Path) -> None:
    (here / "rows.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    (here / "model").mkdir()
    assert main(["new", "sub/lab", "--model", "model", "--data", "rows.jsonl"]) == 0
    recipe = Lab.open(here / "sub/lab").recipe
    assert recipe.model.source == str(here / "model")
    assert recipe.data.file == str(here / "rows.jsonl")


def test_new_makes_a_rehearsal_lab_without_other_words(here: Path, capsys: Captured) -> None:
    assert main(["new", "."]) == 0
    recipe = Lab.open(here).recipe
    assert recipe.model.source == "rehearsal"
    assert recipe.data.file == "data_sample_travel.jsonl"
    assert "olivepress run" in capsys.readouterr().out
    text = (here / "lab.toml").read_text()
    assert main(["new", "."]) == 2
    assert (here / "lab.toml").read_text() == text


def test_a_folder_is_here_unless_named(make: Callable[[str], Lab], monkeypatch: pytest.MonkeyPatch) -> None:
    lab = make("ok")
    assert main(["status"]) == 2
    monkeypatch.chdir(lab.root)
    assert main(["status"]) == 0
    assert main(["run", "quantize", "--no-check"]) == 0
    assert main(["logs", "quantize"]) == 0
    assert main(["logs", ".", "quantize-001"]) == 0


# --- output -----------------------------------------------------------------------------------------


def test_people_read_results_on_standard_output_and_progress_beside_it(
    make: Callable[[str], Lab], capsys: Captured
) -> None:
    lab = make("ok")
    assert main(["run", str(lab.root), "quantize", "finetune", "--no-check"]) == 0
    shown = capsys.readouterr()
    assert [line for line in shown.out.splitlines() if not line.startswith(" ")] == [
        "quantize: done",
        "finetune: done",
    ]
    assert "  Size: 10 B" in shown.out
    assert "Quantize begins, as job quantize-001." in shown.err
    assert re.search(r"^Quantize is done, after [\d.]+ s\.$", shown.err, re.MULTILINE)
    assert main(["run", str(lab.root), "quantize", "--no-check"]) == 0
    assert "quantize: unchanged, nothing to do" in capsys.readouterr().out
    assert main(["run", str(lab.root), "quantize", "--force", "--no-check"]) == 0
    assert "quantize: done" in capsys.readouterr().out


def test_with_json_standard_output_has_json_and_nothing_else(
    make: Callable[[str], Lab], capsys: Captured
) -> None:
    lab = make("error")
    assert main(["run", str(lab.root), "quantize", "--json", "--no-check"]) == StageError.exit_status
    shown = capsys.readouterr()
    events = [json.loads(line) for line in shown.out.splitlines()]
    assert events[-1]["state"] == "failed"
    assert events[-1]["error"] == {
        "code": "",
        "title": "It failed as asked.",
        "detail": "the detail",
        "hint": "the hint",
    }
    assert "It failed as asked." in shown.err
    assert main(["status", str(lab.root), "--json"]) == 0
    (status,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert status["jobs"][0]["error"]["hint"] == "the hint"


def test_detached_it_returns_at_once_with_the_job(make: Callable[[str], Lab], capsys: Captured) -> None:
    lab = make("hang")
    assert main(["run", str(lab.root), "quantize", "finetune", "--detach", "--json", "--no-check"]) == 0
    assert json.loads(capsys.readouterr().out) == {"job": "quantize-001", "then": ["finetune"]}
    assert main(["cancel", str(lab.root), "quantize"]) == 0
    assert capsys.readouterr().out == "quantize-001: cancelled\n"
    assert [job.id for job in lab.jobs()] == ["quantize-001"], "nothing follows what was cancelled"


@pytest.mark.parametrize(
    ("kind", "status"), [(RequestError, 2), (StageError, 3), (MachineError, 4), (Cancelled, 130)]
)
def test_each_kind_of_error_has_its_status(
    kind: type[LabError], status: int, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def fails(folder: str) -> Lab:
        raise kind("What happened.", "Where it was.", "What to do.")

    monkeypatch.setattr(Lab, "at", fails)
    assert main(["status"]) == status
    assert capsys.readouterr().err == "error: What happened.\n  Where it was.\n  What to do.\n"


def test_a_folder_that_is_gone_and_a_lack_of_memory_are_told(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    (here / "gone").mkdir()
    monkeypatch.chdir(here / "gone")
    (here / "gone").rmdir()
    assert main(["status"]) == 2
    assert "The folder that you are in is gone." in capsys.readouterr().err
    monkeypatch.chdir(here)

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("core.cli.parser.parse", full)
    assert main(["status"]) == 4
    assert "There was not enough memory." in capsys.readouterr().err


@pytest.mark.parametrize("name", ["jobs", "models"])
def test_a_file_in_the_place_of_a_folder_is_told(
    make: Callable[[str], Lab], capsys: Captured, name: str
) -> None:
    lab = make("ok")
    (lab.root / name).write_text("not a folder")
    assert main(["run", str(lab.root), "quantize", "--no-check"]) == 4
    told = capsys.readouterr().err
    assert "A file is in the way." in told
    assert str(lab.root / name) in told


def test_an_interrupt_exits_130(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    def interrupted(folder: str) -> Lab:
        raise KeyboardInterrupt

    monkeypatch.setattr(Lab, "at", interrupted)
    assert main(["status"]) == 130
    assert capsys.readouterr().err == "cancelled\n"


@pytest.mark.parametrize(
    "words",
    [
        ["check"],
        ["data"],
        ["run"],
        ["logs", "x"],
        ["cancel", "x"],
        ["chat"],
        ["upload"],
        ["models"],
        ["fetch", "x", "y"],
        ["workspaces", "--use", "x"],
        ["export", "--olive", "x"],
    ],
)
def test_an_interrupt_of_any_command_exits_130(
    words: list[str], here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def interrupted(*_: object) -> Lab:
        raise KeyboardInterrupt

    monkeypatch.setattr("core.folder.LabFolder.recipe_path", property(interrupted))
    assert main(words) == 130
    assert capsys.readouterr().err == "cancelled\n"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["check", "lab", "--bogus", "--json"], "usage"),
        (["status", "nowhere", "--json"], "lab.missing"),
        (["new", "lab", "--json"], "lab.exists"),
        (["new", "rows.jsonl", "--json"], "lab.file"),
        (["new", "x", "--json", "--set", "quantize.bitz=4"], "recipe.unknown-key"),
        (["new", "x", "--json", "--set", "quantize.bits=5"], "recipe.value"),
        (["run", "lab", "quantise", "--json"], "stage.unknown"),
        (["cancel", "lab", "quantize", "--json"], "job.missing"),
        (["run", "broken", "--json"], "recipe.syntax"),
    ],
)
def test_with_json_an_error_is_an_object_with_its_code(
    words: list[str], code: str, here: Path, capsys: Captured
) -> None:
    Lab.create("lab")
    (here / "rows.jsonl").write_text("{}\n")
    (here / "broken").mkdir()
    (here / "broken/lab.toml").write_text("[quantize\n")
    status = main(words)
    shown = capsys.readouterr()
    (told,) = [json.loads(line) for line in shown.out.splitlines()]
    assert (told["type"], told["exit_status"], told["error"]["code"]) == ("error", status, code)
    assert told["error"]["title"] in shown.err


def test_foreign_text_in_errors_cannot_reach_the_terminal(capsys: Captured) -> None:
    print_error(RequestError("a\x1b[31mred", "b\x1b]0;title\x07c\u202ed", "e\x9b2J"))
    assert capsys.readouterr().err == "error: ared\n  bcd\n  e\n"


def test_a_reader_that_leaves_early_is_no_error(make: Callable[[str], Lab]) -> None:
    lab = make("flood")
    lab.run("quantize")
    with subprocess.Popen(
        [sys.executable, "-m", "core.cli", "logs", str(lab.root), "quantize"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 141


def test_each_job_is_told_its_own_time(capsys: pytest.CaptureFixture[str]) -> None:
    at = 0.0
    printer = EventPrinter(lambda: at)
    for job, ends in (("quantize-001", 9.0), ("finetune-001", 78.0)):
        printer({"type": "state", "job": job, "state": "running", "t": 0.0})
        at = ends
        printer({"type": "state", "job": job, "state": "succeeded", "t": 0.0})
    said = capsys.readouterr().err
    assert "Quantize is done, after 9 s." in said
    assert "Finetune is done, after 1 min 09 s." in said


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys: Captured) -> None:
    at = 0.0
    printer = EventPrinter(lambda: at)
    for step in range(1, 36_001):  # an hour, ten events a second
        at += 0.1
        printer({"type": "progress", "phase": "training", "done": step, "total": 36_000, "eta_s": 5.0})
    printer({"type": "metric", "name": "eval_loss", "step": 100, "value": 1.25})
    printer({"type": "metric", "name": "eval_loss", "step": 100, "value": None})
    lines = capsys.readouterr().err.splitlines()
    assert 10 < len(lines) < 25
    assert lines[0] == "  training 1 of 36,000, a few seconds left"
    assert lines[-2:] == ["  training: done in 1 h", "  eval loss 1.2500 at step 100"]


def test_phases_that_take_turns_are_not_told_each_time(capsys: Captured) -> None:
    at = 0.0
    printer = EventPrinter(lambda: at)
    for step in range(100):
        at += 0.05
        for phase, done in (("training", step), ("evaluating", step + 1)):
            printer({"type": "progress", "phase": phase, "done": done, "total": 1000, "eta_s": None})
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_show_gives_the_last_results(make: Callable[[str], Lab], capsys: Captured) -> None:
    lab = make("ok")
    assert main(["show", str(lab.root)]) == 0
    assert "No stage has a result" in capsys.readouterr().out
    assert main(["show", str(lab.root), "finetune"]) == 2
    assert f"olivepress run {lab.root} finetune" in capsys.readouterr().err
    lab.run("finetune")
    made = lab.folder.finetuned_dir(lab.recipe.finetune.adapter)
    assert main(["show", str(lab.root)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == f"finetune: Adapter {made.name}, {made}"
    assert "  Size: 10 B" in shown
    assert main(["--language", "es", "show", str(lab.root)]) == 0
    assert capsys.readouterr().out.startswith(f"finetune: Adaptador {made.name}, ")
    assert main(["show", str(lab.root), "finetune", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    manifest = lab.manifest("finetune")
    assert manifest is not None
    expected = {"stage": "finetune", "where": str(made), "result": manifest["result"], "stale": None}
    assert told["results"] == [expected]


def test_show_says_what_is_stale(here: Path, capsys: Captured) -> None:
    lab = Lab.create("lab")
    make_anew(lab, "quantize")
    assert main(["show", "lab"]) == 0
    assert "  stale: " not in capsys.readouterr().out
    lab.set({"quantize.group_size": 32})
    assert main(["show", "lab"]) == 0
    assert "  stale: " in capsys.readouterr().out


# --- several GPUs -----------------------------------------------------------------------------------


def test_gpus_are_of_this_run_alone_and_of_all_its_stages(make: Callable[[str], Lab], here: Path) -> None:
    lab = make("ok")
    before = lab.folder.recipe_path.read_bytes()
    assert main(["run", "lab", "quantize", "finetune", "--gpus", "3", "--no-check"]) == 0
    assert [job.spec["recipe"]["finetune"]["gpus"] for job in lab.jobs()] == [3, 3]
    assert lab.folder.recipe_path.read_bytes() == before
    assert main(["run", "lab", "finetune", "--gpus", "auto", "--no-check", "--force"]) == 0
    assert lab.job("finetune").spec["recipe"]["finetune"]["gpus"] == "auto"


@pytest.mark.parametrize("gpus", ["0", "65", "two", "", "-1", "1.5"])
def test_an_impossible_number_of_gpus_starts_nothing(
    make: Callable[[str], Lab], capsys: pytest.CaptureFixture[str], gpus: str
) -> None:
    lab = make("ok")
    assert main(["run", "lab", "finetune", f"--gpus={gpus}"]) == 2
    assert "whole number from 1 to 64" in capsys.readouterr().err.replace("\n", " ")
    assert not lab.jobs()


def test_more_gpus_than_there_are_are_refused_before_anything_starts(
    make: Callable[[str], Lab], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.check.gpu.load_nvml", lambda: None)
    lab = make("ok")
    assert main(["run", "lab", "finetune", "--gpus", "2"]) == 4
    assert "finetune.gpus is 2" in capsys.readouterr().err.replace("\n", " ")
    assert not lab.jobs()


def test_export_without_a_form_names_them(capsys: Captured) -> None:
    assert main(["export", "."]) == 2
    shown = capsys.readouterr()
    assert "--to FORM OUT, where FORM is onnx" in shown.err
    assert not shown.out


@pytest.mark.parametrize("word", ["u: ", "a longer word than that: "])
def test_the_usage_is_whole_whatever_its_word(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.cli.parser._", lambda text, **values: word if text == "usage: " else text)
    for name in COMMANDS:
        parser = command_parser(name)
        if actions_of(parser):
            continue
        for words in (["--help"], ["a", "b", "c", "d", "--set", "no%such"], ["--no-such-option=%s"]):
            said = io.StringIO()
            with contextlib.redirect_stdout(said), pytest.raises((UsageError, SystemExit)) as ended:
                parser.read(words)
            usage = ended.value.usage if isinstance(ended.value, UsageError) else said.getvalue()
            assert usage.startswith(f"{word}olivepress {name} ")
