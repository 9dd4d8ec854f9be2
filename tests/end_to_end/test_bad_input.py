"""Wrong requests at the command line: the right exit status, words that help, and nothing half written."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from core import Lab
from core.cli.wizard import open_wizard
from core.jobs.reserve import BYTES as RESERVE
from tests.end_to_end.labs import ROOT, TINY, cli, half_made
from tests.waiting import until

GOOD = '{"prompt": "Where is Oslo?", "response": "In Norway."}\n'


@pytest.fixture
def make(tiny_model: Path, records: Path, tmp_path: Path) -> Callable[..., Lab]:
    """Make a lab of the tiny model with some values changed."""

    def made(**values: object) -> Lab:
        settings = {**TINY, **{name.replace("__", "."): value for name, value in values.items()}}
        source = str(settings.pop("model.source", tiny_model))
        file = settings.pop("data.file", str(records))
        return Lab.create(tmp_path / "lab", model=source, data=str(file), settings=settings)

    return made


def refused(
    *words: str, status: int, says: tuple[str, ...], env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """The command is refused so: its words for people stand on standard error, and no traceback anywhere."""
    ran = cli(*words, env=env, cwd=cwd)
    assert ran.returncode == status, (ran.returncode, ran.stdout, ran.stderr)
    for word in says:
        assert word in ran.stderr, ran.stderr
    assert "Traceback" not in ran.stderr + ran.stdout
    return ran


def tree(root: Path) -> dict[str, bytes]:
    """The files of a lab, but for the note which rows are held out: whoever looks at the data first writes it."""
    files = (p for p in sorted(root.rglob("*")) if p.is_file() and p.name != "data_split.json")
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


# --- the data ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param(None, ("records.jsonl", "does not exist"), id="missing"),
        pytest.param("", ("records.jsonl", "is empty"), id="empty"),
    ],
)
def test_a_data_file_that_is_missing_or_empty_starts_nothing(
    make: Callable[..., Lab], tmp_path: Path, text: str | None, says: tuple[str, ...]
) -> None:
    lab = make(data__file="records.jsonl")
    if text is not None:
        (lab.root / "records.jsonl").write_text(text)
    before = tree(lab.root)
    refused("run", str(lab.root), "quantize", "finetune", status=2, says=says)
    looked = cli("data", str(lab.root))
    assert looked.returncode == 2
    assert "records.jsonl" in looked.stdout + looked.stderr
    assert tree(lab.root) == before


def test_a_broken_line_is_named_by_its_number(quantized_tiny_lab: Path, tmp_path: Path) -> None:
    root = tmp_path / "lab"
    shutil.copytree(quantized_tiny_lab, root)
    lab = Lab.open(root)
    file = root / "records.jsonl"
    file.write_text(GOOD * 4 + '{"prompt": "Where is Lima?", "respon\n' + GOOD)
    lab.set({"data.file": "records.jsonl"})
    ran = refused("run", str(root), "finetune", status=2, says=(f"{file}, line 5", "olivepress data"))
    assert len([line for line in ran.stderr.splitlines() if "line 5" in line]) == 1, "said once"
    assert not lab.folder.finetuned_root.exists()
    assert not half_made(root)
    assert lab.newest("finetune") is None, "refused before anything was started"
    unchecked = refused("run", str(root), "finetune", "--no-check", status=2, says=(f"{file}, line 5",))
    assert "Traceback" not in unchecked.stderr
    assert not half_made(root)
    assert lab.job("finetune").state == "failed"
    looked = cli("data", str(root), "--json")
    assert looked.returncode == 2
    findings = json.loads(looked.stdout)["findings"]
    assert (5, "records.jsonl") in [(f["line"], Path(f["file"]).name) for f in findings]


def test_a_template_with_a_field_that_no_row_has_is_refused(make: Callable[..., Lab]) -> None:
    lab = make(data__template="<|user|>\n{question}<|end|>\n<|assistant|>\n{response}<|end|>")
    ran = cli("data", str(lab.root), "--json")
    assert ran.returncode == 2
    found = json.loads(ran.stdout)["findings"]
    assert [f for f in found if "question" in f["message"] and f["fix"]], found
    refused("run", str(lab.root), "quantize", status=2, says=("question",))
    assert not lab.folder.quantized_dir.exists()
    assert not half_made(lab.root)


# --- the model --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lost", "says"),
    [("model.safetensors", "weights"), ("tokenizer.json", "tokenizer"), ("config.json", "config")],
)
def test_a_model_folder_that_is_not_whole_is_refused(
    make: Callable[..., Lab], tiny_model: Path, tmp_path: Path, lost: str, says: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / lost).unlink()
    lab = make(model__source=str(model))
    refused("run", str(lab.root), "quantize", status=2, says=(str(model), says))
    assert not lab.folder.models_dir.exists()


def test_a_group_size_that_does_not_divide_names_the_layer_and_what_would(make: Callable[..., Lab]) -> None:
    lab = make(quantize__group_size=128)
    ran = refused("run", str(lab.root), "quantize", status=2, says=("128", "model.layers.0", "64 inputs"))
    assert re.search(r"group_size = 64; 32 or 16\b", ran.stderr), ran.stderr
    assert not lab.folder.quantized_dir.exists()
    assert not half_made(lab.root)


# --- the recipe and the words -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("steps =", "stepps =", ("stepps", "finetune.steps")),
        ("rank = 4", 'rank = "four"', ("finetune.rank", "four")),
        ("[finetune]", "[finetun]", ("[finetun]", "[finetune]")),
        ("[finetune]", "[finetune", ("TOML",)),
    ],
)
def test_a_wrong_recipe_is_refused_with_its_line(
    make: Callable[..., Lab], old: str, new: str, says: tuple[str, ...]
) -> None:
    lab = make()
    text = lab.folder.recipe_path.read_text()
    assert old in text
    lab.folder.recipe_path.write_text(text.replace(old, new, 1))
    line = next(n for n, row in enumerate(text.splitlines(), 1) if old in row)
    before = tree(lab.root)
    refused("run", str(lab.root), status=2, says=("lab.toml", f"line {line}", *says))
    assert tree(lab.root) == before


def test_wrong_words_are_refused_before_anything_is_made(make: Callable[..., Lab], tmp_path: Path) -> None:
    lab = make()
    before = tree(lab.root)
    there = str(lab.root)
    refused("run", there, "quantise", status=2, says=("quantise", "quantize, finetune, optimize"))
    refused("run", there, "--fast", status=2, says=("--fast",))
    refused("logs", there, "quantize-007", status=2, says=("quantize-007",))
    refused("chat", there, "--prompt", "Hello", status=2, says=("olivepress run",))
    refused("run", there, "optimize", status=2, says=("quantize",))
    # What was looked at is remembered in .olivepress; nothing else is there.
    made = {name for name in tree(lab.root) if not name.startswith(("jobs/", ".olivepress/"))}
    assert made == set(before)
    refused("new", there, status=2, says=("lab already",))
    refused("new", str(tmp_path / "new"), "--set", "finetune.steps=0", status=2, says=("finetune.steps",))
    refused("new", str(tmp_path / "new"), "--set", "finetune.step=5", status=2, says=("finetune.steps",))
    refused("status", str(tmp_path / "new"), status=2, says=("no lab here", "olivepress new"))
    assert not (tmp_path / "new").exists()


def test_without_a_terminal_the_wizard_explains_itself(tmp_path: Path) -> None:
    for words in ((), (str(tmp_path),), (str(tmp_path / "new"),)):
        refused(*words, status=2, says=("no terminal", "olivepress run", "olivepress new"), cwd=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_misspelt_command_is_not_taken_for_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core import RequestError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    with pytest.raises(RequestError) as caught:
        open_wizard("chekc")
    assert "olivepress check" in caught.value.hint


# --- the machine ------------------------------------------------------------------------------------


def test_a_second_job_is_refused_while_one_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLIVEPRESS_PLUGIN", "tests.fake_stages.plugin")
    lab = Lab.create(tmp_path / "lab", settings={"chat.system": "hang"})
    job = lab.start("quantize")
    try:
        until(lambda: job.state == "running")
        says = ("quantize-001 is running", "olivepress cancel", "--follow")
        refused("run", str(lab.root), "finetune", "--no-check", status=2, says=says)
        refused("run", str(lab.root), "quantize", "--detach", "--no-check", status=2, says=says)
        assert [each.id for each in lab.jobs()] == ["quantize-001"]
        assert [p.name for p in lab.folder.jobs_dir.iterdir() if p.is_dir()] == ["quantize-001"]
    finally:
        job.cancel()
    assert job.wait(timeout=60) == "cancelled"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 512 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small disk can only be mounted by root")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path, leave: int) -> Path:
    """Fill a disk up to so many bytes."""
    file = place / "filler"
    free = shutil.disk_usage(place).free
    file.write_bytes(b"\0" * max(0, free - leave))
    return file


def test_a_full_disk_is_said_and_leaves_nothing_half_written(
    small_disk: Path, tiny_model: Path, records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = small_disk / "lab"
    filler = fill(small_disk, 0)
    refused("new", str(root), status=4, says=("disk is full", "Free some space"))
    assert not (root / "lab.toml").exists()
    assert not list(root.glob(".*")) if root.exists() else True
    filler.unlink()

    lab = Lab.create(root, model=str(tiny_model), data=records, settings=dict(TINY))
    # The stage knows before its work that there is too little.
    refused("run", str(root), "quantize", status=4, says=("disk space", "are needed", "are free"))
    assert not lab.folder.quantized_dir.exists()
    assert not half_made(root)
    shutil.rmtree(lab.folder.jobs_dir)
    # Not known beforehand: no byte left to make a job.
    filler = fill(small_disk, 0)
    refused("run", str(root), "quantize", "--no-check", status=4, says=("disk is full",))
    assert not [path for path in lab.folder.jobs_dir.iterdir() if path.is_dir()]
    filler.unlink()
    monkeypatch.setenv("OLIVEPRESS_PLUGIN", "tests.fake_stages.plugin")
    lab.set({"chat.system": "ok"})
    # Whatever the moment at which the last byte goes: it is said, or there was room enough.
    for leave in range(RESERVE, RESERVE + 7 * 4096, 8192):
        filler = fill(small_disk, leave)
        ran = cli("run", str(root), "quantize", "--force", "--no-check")
        assert ran.returncode in (0, 4), ran.stderr
        assert "Traceback" not in ran.stderr
        assert ("disk is full" in ran.stderr) == (ran.returncode == 4)
        assert not half_made(root)
        filler.unlink()
        shutil.rmtree(lab.folder.jobs_dir)
    shutil.rmtree(lab.folder.models_dir, ignore_errors=True)
    # In the middle of a stage, which writes until nothing more goes in.
    lab.set({"chat.system": "fill"})
    refused("run", str(root), "quantize", "--no-check", status=4, says=("disk is full",))
    assert not lab.folder.quantized_dir.exists()
    assert not half_made(root)
    assert lab.job("quantize").state == "failed"
    # With room again, the same lab works.
    lab.set({"chat.system": "ok"})
    assert cli("run", str(root), "quantize", "--no-check").returncode == 0
    assert lab.folder.quantized_dir.is_dir()
