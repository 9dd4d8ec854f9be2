"""Commands in hints and messages can be pasted into a shell, whatever the lab is called, and are commands there are."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import Lab, LabError
from core.chat.model_process import check_model
from core.chat.session import choose_adapter
from core.check import run_checks
from core.cli import main
from core.cli.commands import COMMANDS
from core.cli.completion import SCRIPTS
from core.cli.login import METHODS
from core.cli.parser import parse
from core.folder import lab_command
from core.optimize.adapters import check_adapter, read_layout
from core.stages import STAGES
from core.text import command
from tests.recipes import settled
from tui.session import Session

ROOT = Path(__file__).resolve().parents[2]
AWKWARD = "my lab's $HOME"
SOURCES = sorted([*(ROOT / "core").rglob("*.py"), *(ROOT / "tui").rglob("*.py")])
NAMED = re.compile(rf"olivepress ((?:{'|'.join(COMMANDS)})\b[^`\n]*)")


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A lab with a name that no shell takes as it is."""
    monkeypatch.chdir(tmp_path)
    return Lab.create(AWKWARD)


# --- quoting ----------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@settings(max_examples=40)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=20))
def test_a_shell_gives_the_words_back(words: list[str]) -> None:
    line = command("run", *words).removeprefix("olivepress ")
    given = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {line}"],
        capture_output=True,
        check=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    assert given.stdout.decode().split("\0")[1:-1] == words
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", line), "nothing in it can move a cursor"


def test_a_path_that_is_no_text_comes_back_too() -> None:
    path = os.fsdecode(b"caf\xe9")
    assert command("check", path) == "olivepress check $'caf\\xe9'"


def test_the_lab_is_found_from_a_file_in_it(lab: Lab, tmp_path: Path) -> None:
    deep = lab.folder.onnx_dir / "adapters" / "x.onnx_adapter"
    assert shlex.split(str(lab_command(deep, "run", "optimize"))) == [
        "olivepress",
        "run",
        str(lab.root),
        "optimize",
    ]
    assert str(lab_command(tmp_path / "elsewhere", "run", "optimize")) == "olivepress run DIR optimize"


# --- what the source says ---------------------------------------------------------------------------


def strings(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Each string of a module that is no docstring: its line, its text, and whether a value follows inside it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inside = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            for part, after in zip(node.values, [*node.values[1:], None], strict=True):
                inside.add(id(part))
                if isinstance(part, ast.Constant):
                    yield node.lineno, str(part.value), isinstance(after, ast.FormattedValue)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare | inside:
            yield node.lineno, node.value, False


def test_no_value_is_put_into_a_command_line_unquoted() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in SOURCES
        for line, text, value_follows in strings(path)
        if value_follows and re.search(r"olivepress [a-z]+ [^`\n;]*$", text)
    ]
    assert not wrong, "use core.text.command"


def words_of(text: str) -> list[str]:
    """The words of a command line in a sentence: the command, and what looks like a word for it."""
    first, *rest = text.split()
    words = [first.strip(".,:;")]
    for word in rest:
        bare = word.strip('.,;)"')
        if (
            word in STAGES
            or bare in (*METHODS, *SCRIPTS)
            or re.fullmatch(r"--[a-z-]+|[A-Z]+(\.jsonl)?|\./.*", bare)
        ):
            words.append(bare)
        else:
            break
    return words


def commands_as_data(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Each command that a module makes as data, with a word for what is not known yet."""
    makers = {"Do.of": 1, "Do": 0, "lab_command": 1}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if isinstance(node, ast.Call) and name in makers:
            given = [each for each in node.args[makers[name] :] if not isinstance(each, ast.Starred)]
            if name == "Do":
                given = [
                    given[0],
                    *(given[1].elts if len(given) > 1 and isinstance(given[1], ast.Tuple) else []),
                ]
            elif name == "Do.of":
                given = [node.args[0], *given]
            unknown = "quantize" if isinstance(given[0], ast.Constant) and given[0].value == "run" else "x"
            words = [str(each.value) if isinstance(each, ast.Constant) else unknown for each in given]
            if not isinstance(given[0], ast.Constant):
                continue  # from outside
            yield node.lineno, words[:1] + (["DIR"] if name == "lab_command" else []) + words[1:]


def test_every_command_line_in_the_source_is_understood() -> None:
    seen = 0
    for path in SOURCES:
        told = [
            (line, words_of(found[1]))
            for line, text, value_follows in strings(path)
            for found in ([] if value_follows else NAMED.finditer(text))
        ]
        for line, words in [*told, *commands_as_data(path)]:
            try:
                parse(words)
            except SystemExit:  # --help
                pass
            except LabError as error:
                pytest.fail(f"{path.name}:{line}: olivepress {shlex.join(words)}: {error}")
            seen += 1
    assert seen > 40


# --- hints of an awkward lab ------------------------------------------------------------------------


def no_jobs(lab: Lab) -> None:
    check_model(lab.folder.onnx_dir, lab.folder)


def no_adapter(lab: Lab) -> None:
    choose_adapter(lab.folder.onnx_dir, [], "x", "x")


def no_layout(lab: Lab) -> None:
    read_layout(lab.folder.onnx_dir)


def no_adapter_file(lab: Lab) -> None:
    check_adapter(lab.folder.onnx_dir, lab.folder.adapter_file("x"))


def no_quantized(lab: Lab) -> None:
    from core.optimize.stage import base_fingerprint

    base_fingerprint(lab.folder, settled({}, base=lab.recipe))


def nothing_to_train_on(lab: Lab) -> None:
    from core.data.records import resolve_at_hand
    from core.finetune.stage import fingerprint

    fingerprint(lab.folder, resolve_at_hand(lab.folder, lab.recipe).recipe)


def no_lab(lab: Lab) -> None:
    Lab.open(lab.root / "not there, it's")


def nothing_to_upload(lab: Lab) -> None:
    from core.upload.contents import collect

    collect(lab.folder, lab.recipe)


def no_workspace(lab: Lab) -> None:
    from core.azure.workspace import Place

    Place.of(lab.recipe, lab.root)


@pytest.mark.parametrize(
    "fails",
    [
        no_jobs,
        no_adapter,
        no_layout,
        no_adapter_file,
        no_quantized,
        nothing_to_train_on,
        no_lab,
        nothing_to_upload,
        no_workspace,
    ],
)
def test_hints_name_the_lab_as_a_shell_takes_it(lab: Lab, fails: Callable[[Lab], None]) -> None:
    with pytest.raises(LabError) as caught:
        fails(lab)
    (found,) = NAMED.findall(caught.value.hint)
    words = shlex.split(found)
    parse(words)
    assert words[1].startswith(str(lab.root))


def test_the_checks_name_the_lab_as_a_shell_takes_it(lab: Lab) -> None:
    told = [f"{check.found}\n{check.fix}" for check in run_checks(lab, ["quantize", "upload"])]
    found = [line for text in told for line in NAMED.findall(text)]
    assert len(found) >= 2
    for line in found:
        words = shlex.split(line)
        parse(words)
        assert words[0] == "login" or words[1] == str(lab.root)


def test_what_new_says_next_runs(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", f"{AWKWARD} 2"]) == 0
    check, run = NAMED.findall(capsys.readouterr().out.replace("   then: ", "\n"))
    assert shlex.split(run) == ["run", f"{AWKWARD} 2"]
    status = check.replace("check", "status", 1)
    done = subprocess.run(
        [
            "sh",
            "-c",
            f'olivepress() {{ {shlex.quote(sys.executable)} -m core.cli "$@"; }}; olivepress {status}',
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    (start,) = NAMED.findall(done.stdout)
    assert shlex.split(start) == ["run", f"{AWKWARD} 2"]


def test_the_wizards_command_line_is_a_command(lab: Lab) -> None:
    for words in (["check"], ["run", "quantize"], ["chat", "--adapter", "it's"], ["upload"]):
        line = Session(lab.root).command(*words)
        told = shlex.split(line)
        assert told == ["olivepress", words[0], AWKWARD, *words[1:]]
        parse(told[1:])


def test_nothing_branches_on_the_words_of_an_error() -> None:
    """Words are for people and may change; programs look at ``LabError.code``."""
    words = {"title", "detail", "hint"}
    for folder in ("core", "tui"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.expr):
                    continue
                looked_at: list[ast.expr] = []
                if isinstance(node, ast.Compare):
                    looked_at = [node.left, *node.comparators]
                elif isinstance(node, ast.Attribute) and node.attr in ("startswith", "endswith", "find"):
                    looked_at = [node.value]
                for each in looked_at:
                    assert not (isinstance(each, ast.Attribute) and each.attr in words), (
                        f"{path}:{node.lineno}"
                    )
