"""A room of two seats from the kit to the collected page: one breaks and is rescued, one is given a new lab."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.cli import main
from core.errors import LabError
from core.files import MANIFEST, damage, read_json
from core.lab import Lab
from core.report import report_text
from core.workshop import Wishes, Workshop, collect, prepare, rescue, reset, seats_status
from core.workshop.watch import SeatStatus
from tests.room_stages.work import BREAKS


def seats(workshop: Workshop) -> dict[str, SeatStatus]:
    return {each.seat: each for each in seats_status(workshop)}


def test_a_whole_workshop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OLIVEPRESS_PLUGIN", "tests.room_stages.plugin")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    room = prepare(tmp_path / "room", Wishes(seats=2, steps=7, records=5, at_once=1))
    one, two = room.seat("1"), room.seat("seat-02")
    assert one.recipe.finetune.steps == 7
    assert [json.loads(line).keys() >= {"prompt"} for line in records(one).read_text().splitlines()] == [
        True
    ] * 5
    assert records(one).stat().st_mode & 0o222 == 0
    assert sorted(path.name for path in room.handouts_dir.iterdir()) == ["seat-01.html", "seat-02.html"]
    assert {each.step for each in seats(room).values()} == {"quantize"}

    # Seat 1 makes the first step itself, with the next it breaks.
    one.run("quantize")
    one.set({"chat.system": BREAKS, "finetune.steps": 9})
    with pytest.raises(LabError, match="on purpose"):
        one.run("finetune")
    broken = seats(room)["seat-01"]
    assert (broken.step, broken.state, broken.code) == ("finetune", "failed", "room.broken")
    assert broken.made == ("quantize",)
    assert main(["workshop", "status", str(room.root), "--json"]) == 0
    told = capsys.readouterr().out
    assert "room.broken" in told
    assert "secret" not in told, "an error's detail may hold a record"

    done = rescue(room, "seat-01", "optimize")
    assert (done.kept, done.stages) == (("quantize",), ("finetune", "optimize"))
    assert done.settings == {"finetune.steps": (9, 7)}
    after = seats(room)["seat-01"]
    assert (after.step, after.state, after.prepared) == ("chat", "ready", ("finetune", "optimize"))
    for stage in ("finetune", "optimize"):
        manifest = one.manifest(stage)
        assert manifest is not None
        assert manifest["prepared"].startswith("20")
        assert manifest["fingerprint"] == Lab(room.reference).manifest(stage)["fingerprint"]  # type: ignore[index]
        assert damage(one.folder.onnx_dir, verify=True) == []
    assert read_json(one.folder.quantized_dir / MANIFEST).get("prepared") is None
    assert "Prepared result, put here | 20" in report_text(one.folder, one.recipe)
    assert [job.state for job in one.jobs()] == ["succeeded", "failed", *["succeeded"] * 3]

    # Seat 2 has spoilt its recipe.
    two.folder.recipe_path.write_text("[quantize\n")
    assert seats(room)["seat-02"].code == "recipe.syntax"
    assert rescue(room, "2", "quantize").recipe_aside == f"{two.folder.recipe_path}.set-aside"
    assert seats(room)["seat-02"].prepared == ("quantize",)
    page = collect(room)
    text = page.read_text()
    assert text.count("<b>prepared</b>") == 3
    assert 'href="seat-01.html"' in text
    assert "seat-01,finetune,Steps,3" in page.with_name("table.csv").read_text()

    aside = reset(room, "2")
    assert aside is not None
    assert (aside / "models" / "quantized" / MANIFEST).is_file()
    assert seats(room)["seat-02"] == SeatStatus("seat-02", "quantize", "ready")


def records(lab: Lab) -> Path:
    return (lab.root / lab.recipe.data.file).resolve()
