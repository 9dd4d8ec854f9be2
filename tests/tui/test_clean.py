"""A full disk in the wizard: the error brings a button, that shows what can go, and only what is ticked goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.check.machine import judge_disk
from core.check.needs import StageNeed
from core.errors import MachineError
from core.lab import Lab
from tests.tui.conftest import opened, screen_text, until
from tests.tui.labs import job_in
from tui.screens.clean import CleanScreen


async def test_a_full_disk_has_a_way_to_free_space(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("core.space.cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr("core.space.hub_models", list)
    for name in ("quantize-007", "quantize-008"):
        work = lab.folder.models_dir / f".{name}.work"
        work.mkdir(parents=True)
        (work / "half").write_bytes(b"0" * 4096)
    check = judge_disk([StageNeed("quantize", 1, 1, 100, 1.0)], 10, lab.root)
    full = MachineError("There is not enough disk space.", check.found, check.advice, code="disk.full")
    job_in(lab, "quantize", "running").end("failed", error=full.as_dict())
    async with opened(lab.root, "quantize") as (app, pilot):
        await until(pilot, lambda: "[ Free some space ]" in screen_text(app))
        await until(pilot, lambda: app.screen.focused is not None and app.screen.focused.id == "help-0")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, CleanScreen) and not app.screen.busy)
        assert "Remove what is ticked" in screen_text(app)
        await pilot.press("r")
        assert (lab.folder.models_dir / ".quantize-007.work").exists(), "nothing was ticked"
        await pilot.press("enter")
        await until(pilot, lambda: "[x]" in screen_text(app))
        await pilot.press("r")
        await until(pilot, lambda: "are free again" in screen_text(app))
        left = [path.name for path in lab.folder.models_dir.glob(".*.work")]
        assert len(left) == 1, "only what was ticked"
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is app.current)
