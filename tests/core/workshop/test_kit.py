"""The kit: what is shared, what is limited, what is refused; the plan; what a room will fail of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from core.check.needs import Machine, StageNeed
from core.check.types import FAIL, OK, WARN, Check
from core.cli import main
from core.errors import LabError
from core.lab import Lab
from core.workshop import Wishes, Workshop, prepare, reset, seats_status
from core.workshop import plan as plans
from core.workshop import room as rooms
from core.workshop.handout import handout
from core.workshop.plan import PlannedStep, RoomPlan
from core.workshop.prepare import _drawn
from core.workshop.rescue import _chain
from tests.tiny_models import make_tiny

GIB = 2**30


@pytest.fixture(autouse=True)
def _by_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No machine is looked at."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(plans, "expected_seconds", lambda root, stage: {"quantize": 10.0}.get(stage, 30.0))
    monkeypatch.setattr(rooms, "run_checks", lambda root: [])


@pytest.fixture
def kit(tmp_path: Path) -> Workshop:
    return prepare(tmp_path / "room", Wishes(seats=3, at_once=2), results=False)


def code_of(root: Path, wishes: Wishes) -> str:
    with pytest.raises(LabError) as told:
        prepare(root, wishes, results=False)
    return told.value.code


def test_one_model_for_all_read_only_linked_where_it_can_be(tmp_path: Path) -> None:
    model = make_tiny("llama", tmp_path / "tiny", hidden=64, intermediate=96)
    for path in model.iterdir():
        path.chmod(0o644)
    (model / "model.safetensors").chmod(0o600)
    room = prepare(tmp_path / "room", Wishes(seats=2, model=str(model), at_once=1), results=False)
    for name in ("seat-01", "seat-02"):
        lab = Lab.open(room.root / name)
        assert lab.recipe.model.source == "../model/tiny"
        assert not lab.folder.models_dir.exists(), "no copy in the seat"
    shared = room.model_dir / "tiny"
    assert (shared / "config.json").stat().st_ino == (model / "config.json").stat().st_ino
    copied = shared / "model.safetensors"
    assert copied.stat().st_mode & 0o777 == 0o444, "others could not have read it"
    assert copied.read_bytes() == (model / "model.safetensors").read_bytes()
    moved = room.root.rename(tmp_path / "elsewhere")
    assert (Lab.open(moved / "seat-01").root / "../model/tiny/config.json").is_file()


def test_records_are_drawn_evenly_and_the_same_each_time(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": str(n), "response": "a"}) + "\n" for n in range(1000)))
    drawn = [int(json.loads(line)["prompt"]) for line in _drawn(file, 100)]
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 100
    assert 400 < sum(drawn) / 100 < 600
    assert _drawn(file, 100) == _drawn(file, 100)
    assert len(_drawn(file, 5000)) == 1000


def test_given_again_it_makes_what_is_missing_and_nothing_else(kit: Workshop) -> None:
    Lab.open(kit.root / "seat-02").set({"finetune.steps": 77})
    (kit.root / "seat-01" / "lab.toml").unlink()
    (kit.root / "seat-01").rmdir()
    again = prepare(kit.root, Wishes(seats=4, minutes=60), results=False)
    assert (again.seats, again.at_once, again.minutes) == (4, 2, 60)
    assert Workshop.open(kit.root) == again
    assert Lab.open(kit.root / "seat-02").recipe.finetune.steps == 77
    assert {each.seat: each.step for each in seats_status(again)} == {
        f"seat-0{number}": "quantize" for number in range(1, 5)
    }


def test_what_cannot_be_is_refused(kit: Workshop, tmp_path: Path) -> None:
    assert code_of(kit.root, Wishes(seats=2)) == "workshop.exists"
    assert code_of(kit.root, Wishes(steps=5)) == "workshop.exists"
    assert code_of(tmp_path / "new", Wishes()) == "workshop.seats"
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.docx").touch()
    assert code_of(tmp_path / "used", Wishes(seats=2)) == "workshop.folder"
    assert code_of(tmp_path / "new", Wishes(seats=2, settings={"finetune.steps": -1})) == "recipe.value"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "text",
    ["", "seats = 0", "seats = true", "seats = 3\nmore = 1", "seats =", 'seats = 3\nown_accounts = "x"'],
)
def test_a_wrong_file_is_told(kit: Workshop, text: str) -> None:
    (kit.root / "workshop.toml").write_text(text)
    with pytest.raises(LabError) as told:
        Workshop.open(kit.root)
    assert told.value.code == "workshop.file"


def test_seats_have_names_and_numbers(kit: Workshop) -> None:
    assert kit.seat("3").root == kit.seat("seat-03").root == kit.root / "seat-03"
    for wrong in ("4", "0", "seat-3", "../reference", "reference", "٣"):
        with pytest.raises(LabError) as told:
            kit.seat(wrong)
        assert told.value.code == "workshop.seat"


def test_a_result_comes_with_what_it_is_made_from() -> None:
    assert [stage.name for stage in _chain("quantize")] == ["quantize"]
    assert [stage.name for stage in _chain("finetune")] == ["quantize", "finetune"]
    assert [stage.name for stage in _chain("optimize")] == ["quantize", "finetune", "optimize"]
    with pytest.raises(LabError, match="no prepared result"):
        _chain("upload")


def test_a_reset_loses_nothing(kit: Workshop) -> None:
    lab = kit.seat("2")
    (lab.root / "notes.txt").write_text("mine")
    first, second = reset(kit, "2"), reset(kit, "2")
    assert first is not None
    assert second is not None
    assert first != second
    assert (first / "notes.txt").read_text() == "mine"
    assert [path.name for path in lab.root.iterdir()] == ["lab.toml"]


@pytest.mark.parametrize(
    ("gpus", "seats", "at_once", "room_s"),
    [(2, 8, 2, 120.0), (0, 8, 3, 240.0), (1, 1, 1, 30.0), (3, 2, 2, 30.0)],
)
def test_the_plan_counts_the_waits(
    kit: Workshop, monkeypatch: pytest.MonkeyPatch, gpus: int, seats: int, at_once: int, room_s: float
) -> None:
    monkeypatch.setattr(plans, "gpus_here", lambda: [SimpleNamespace()] * gpus)
    made = plans.plan(replace(kit, seats=seats, at_once=3))
    assert (made.at_once, made.gpus) == (at_once, gpus)
    assert [step.name for step in made.steps] == ["check", "data", "quantize", "finetune", "optimize", "chat"]
    assert made.steps[3].room_s == room_s
    assert made.total_s == pytest.approx(12 * 60 + room_s * (2 + 1 / 3))
    assert made.fits
    assert not any(step.measured for step in made.steps)
    assert not replace(made, minutes=12).fits


def test_minutes_limit_the_steps(kit: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    def needs(subject: object) -> dict[str, StageNeed]:
        steps = subject.recipe.finetune.steps  # type: ignore[attr-defined]
        seconds = 50.0 + 2 * (400 if steps == "auto" else steps)
        return {
            "quantize": StageNeed("quantize", 0, 0, 0, 40),
            "finetune": StageNeed("finetune", 0, 0, 0, seconds),
        }

    monkeypatch.setattr(plans, "estimates", needs)
    monkeypatch.setattr(plans, "gpus_here", lambda: [SimpleNamespace()])
    recipe = Lab(kit.reference).recipe
    assert plans.steps_within(replace(kit, seats=1, minutes=35), recipe) is None, "all of it fits"
    within = plans.steps_within(replace(kit, seats=3, minutes=35), recipe)
    assert within == 185, "23 minutes for three: 460 s each, 90 of them whatever the steps"
    assert plans.steps_within(replace(kit, seats=100, minutes=13), recipe) == 10


def need(stage: str, gib: float) -> StageNeed:
    return StageNeed(stage, int(gib * GIB), int(gib * GIB), int(gib * GIB), 10.0)


def room_of(
    kit: Workshop, monkeypatch: pytest.MonkeyPatch, *, gib: float, ram: float, gpus: int = 0, gpu: float = 80
) -> dict[str, Check]:
    every = {name: need(name, gib) for name in ("quantize", "finetune", "optimize")}
    cards = [SimpleNamespace(memory_total=int(gpu * GIB), memory_used=0)] * gpus
    monkeypatch.setattr(rooms, "estimates", lambda subject: every)
    monkeypatch.setattr(rooms, "gpus_here", lambda: cards)
    monkeypatch.setattr(rooms, "machine", lambda: Machine(0, 2, int(ram * GIB)))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=20 * GIB))
    made = RoomPlan((PlannedStep("quantize", "Quantize", 60.0, 600.0),), kit.seats, 1, gpus, kit.minutes)
    return {check.name: check for check in rooms.check_room(kit, made)}


def test_a_room_is_more_than_one_lab(kit: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    fine = room_of(kit, monkeypatch, gib=1, ram=8)
    assert {fine[name].state for name in ("disk", "memory", "turns", "network", "access", "time")} == {OK}
    assert "16.0 GiB needed for 4 labs" in fine["disk"].found, "three results and the half-made one, each"
    assert (fine["prepared"].state, fine["prepared"].fix) == (WARN, f"olivepress workshop prepare {kit.root}")
    tight = room_of(kit, monkeypatch, gib=2, ram=3)
    assert tight["disk"].state == FAIL
    assert tight["memory"].state == FAIL
    assert "--at-once 1" in tight["memory"].fix
    assert room_of(kit, monkeypatch, gib=1, ram=8, gpus=2)["gpu memory"].state == OK
    assert room_of(kit, monkeypatch, gib=1, ram=8, gpus=2, gpu=0.5)["gpu memory"].state == FAIL
    assert "3 seats take turns on 2 GPUs" in room_of(kit, monkeypatch, gib=1, ram=8, gpus=2)["turns"].found
    late = room_of(replace(kit, minutes=9), monkeypatch, gib=1, ram=8)["time"]
    assert (late.state, "Quantize takes most" in late.found) == (WARN, True)


def test_accounts_of_their_own_need_rights(
    kit: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = prepare(kit.root, Wishes(own_accounts=True), results=False)
    assert other.line_dir.stat().st_mode & 0o7777 == 0o1777
    monkeypatch.setattr(rooms, "_others", lambda path, wanted: True)
    told = list(rooms._access(other))
    assert [check.state for check in told] == [WARN]
    assert "sudo chown" in told[0].fix
    monkeypatch.setattr(rooms, "_others", lambda path, wanted: path != kit.root)
    assert [check.state for check in rooms._access(other)] == [FAIL, WARN]
    monkeypatch.setattr("core.workshop.watch._open", lambda path: path.name != "seat-02")
    assert [each.state for each in seats_status(other)] == ["ready", "unreadable", "ready"]
    assert "seat-02 belongs to" in next(iter(rooms._access(other))).found


def test_a_page_for_each_seat_says_where_and_how_long(kit: Workshop) -> None:
    made = plans.plan(kit)
    page = handout(kit, "seat-02", made)
    assert f"olivepress {kit.root}/seat-02" in page
    assert page.count("<tr>") == 7
    assert "about 35 minutes" in page
    assert "There are more seats than can compute at once" in page
    strange = replace(kit, root=kit.root / "<b>")
    assert "<b>" not in handout(strange, "seat-02", made)


def test_the_command_says_what_it_can(kit: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["workshop"]) == 2
    assert "It can prepare, status, rescue, reset, collect." in capsys.readouterr().err
    assert main(["workshop", "rescu", str(kit.root), "1"]) == 2
    assert "Did you mean rescue?" in capsys.readouterr().err
    assert main(["workshop", "status", str(kit.root.parent)]) == 2
    assert "There is no workshop here." in capsys.readouterr().err
    assert main(["workshop", "status", str(kit.root)]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["seat-01", "quantize", "ready"]
    assert main(["workshop", "collect", str(kit.root), "--json"]) == 0
    assert Path(json.loads(capsys.readouterr().out)["page"]).is_file()
