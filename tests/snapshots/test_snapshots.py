"""Pictures of the screens, at 80x24 and 120x40, compared with those that were looked at and found good.

Nothing in them moves: no clock, no blinking cursor, no machine's own figures, and a lab in a folder of a
fixed name. Make them anew with ``pytest tests/snapshots --snapshot-update``, and look at each.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from core.check import Check
from core.lab import Lab
from core.searched import Board, Try, write_board
from tests.snapshots.conftest import Compare
from tests.tui.conftest import screen_text, until
from tests.tui.labs import END, RESULTS, job_in, made
from tests.tui.nasty import NASTY
from tui.app import OlivePressApp
from tui.lab_watch import seconds
from tui.screens.stage.screen import StageScreen

SIZES = [(80, 24), (120, 40)]
IDS = ["80x24", "120x40"]


def at(*states: str, sizes: Sequence[tuple[int, int]] = SIZES) -> list[Any]:
    """Parameters: these states, each at these sizes."""
    return [
        pytest.param(state, size, id=f"{state}-{size[0]}x{size[1]}") for state in states for size in sizes
    ]


LOW = SIZES[:1]

ROWS = [
    {
        "prompt": f"What should I see in {town}?",
        "response": f"In {town}, see the old bridge, the market and the river.",
    }
    for town in (
        "Avila",
        "Bruges",
        "Cusco",
        "Delft",
        "Evora",
        "Fes",
        "Ghent",
        "Hue",
        "Ipoh",
        "Jaipur",
        "Kyoto",
        "Lviv",
    )
]


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A lab at a path of a fixed name, and a clock that stands still."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)
    root = Path("/tmp/olivepress-pictures") / name / "travel-lab"
    shutil.rmtree(root.parent, ignore_errors=True)
    made_lab = Lab.create(root, settings={"finetune.steps": 100})
    (root / "towns.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    made_lab.set({"data.file": "towns.jsonl"})
    monkeypatch.chdir(root)
    now = seconds(END)
    monkeypatch.setattr("tui.screens.stage.controller.time.time", lambda: now)
    monkeypatch.setattr("tui.widgets.topline.TopLine.lab_name", lambda self: "~/travel-lab", raising=False)
    yield made_lab
    shutil.rmtree(root.parent, ignore_errors=True)


def ready(app: OlivePressApp) -> bool:
    """Whether what threads read is there, so that keys meet the screen that they are meant for."""
    screen = app.current
    if not screen.is_mounted or app._watch is None or app._watch._thread is None:
        return False
    if screen.focused is None and not screen.has_class("-too-small"):
        return False
    if app.snapshot.active is not None and (screen._top is None or not screen._top._load):
        return False
    if not isinstance(screen, StageScreen):
        return screen.step.name != "check" or "check" in app.notes
    state = screen.state()
    told = state.job is None or state.settings or app.size.height < 24 or "8/" in screen_text(app)
    return told and not screen.log_pane._waiting and not screen.form.waiting


def picture(snap_compare: Compare, lab: Lab, step: str, size: tuple[int, int], *keys: str) -> None:
    """Compare the screen of a step, after these keys."""

    async def steps(pilot: Any) -> None:
        await until(pilot, lambda: ready(pilot.app))
        await pilot.press(*keys)

    assert snap_compare(OlivePressApp(lab.root, step), size, steps)


@pytest.mark.parametrize("size", SIZES, ids=IDS)
@pytest.mark.parametrize("step", ["check", "quantize", "finetune", "optimize"])
def test_empty(snap_compare: Compare, pinned: Lab, step: str, size: tuple[int, int]) -> None:
    if step in ("finetune", "optimize"):
        made(pinned, ("quantize",))
    picture(snap_compare, pinned, step, size)


@pytest.mark.parametrize("size", SIZES, ids=IDS)
@pytest.mark.parametrize("state", ["running", "succeeded", "failed", "cancelled"])
@pytest.mark.parametrize("stage", ["quantize", "finetune", "optimize"])
def test_states(snap_compare: Compare, pinned: Lab, stage: str, state: str, size: tuple[int, int]) -> None:
    job = job_in(pinned, stage, state)
    picture(snap_compare, pinned, stage, size)
    job.let_go()


def test_nasty_check(snap_compare: Compare, pinned: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [Check("python", "OK", NASTY[4] + NASTY[9]), Check(NASTY[1], "WARN", NASTY[2], NASTY[3])]
    checks += [Check("packages", "FAIL", " ".join(NASTY[4:10]), "\n".join((NASTY[3], NASTY[7], NASTY[0])))]

    def found(
        root: object, stages: object = None, on_check: Callable[[Check], object] | None = None
    ) -> list[Check]:
        if on_check is not None:
            for check in checks:
                on_check(check)
        return checks

    monkeypatch.setattr("core.check.run_checks", found)
    picture(snap_compare, pinned, "check", (80, 24))


@pytest.mark.parametrize("stage", ["quantize", "finetune", "optimize"])
def test_nasty_failure(snap_compare: Compare, pinned: Lab, stage: str) -> None:
    job = job_in(pinned, stage, "running")
    job.log("\n".join(text for text in (*NASTY[9:], *NASTY[:9]) if text.strip()) + "\n8/8 the last line\n")
    hint = NASTY[3] + NASTY[7] + NASTY[9]
    job.end("failed", error={"title": NASTY[1] + NASTY[4], "detail": "\n".join(NASTY[:6]), "hint": hint})
    picture(snap_compare, pinned, stage, (80, 24))


def test_nasty_settings(snap_compare: Compare, pinned: Lab) -> None:
    pinned.set({"model.source": NASTY[4] + NASTY[3] + NASTY[9]})
    picture(snap_compare, pinned, "quantize", (80, 24))


def test_nasty_running(snap_compare: Compare, pinned: Lab) -> None:
    job = job_in(pinned, "quantize", "running")
    job.progress(NASTY[3] + NASTY[4] + NASTY[9], 3, 10, 40.0)
    picture(snap_compare, pinned, "quantize", (80, 24))
    job.let_go()


def test_nasty_result(snap_compare: Compare, pinned: Lab) -> None:
    job = job_in(pinned, "optimize", "running")
    made(pinned, ("optimize",))
    job.end(
        "succeeded", {**RESULTS["optimize"], "provider": NASTY[3] + NASTY[9], "adapter": NASTY[4] + NASTY[7]}
    )
    picture(snap_compare, pinned, "optimize", (80, 24))


def test_blocked(snap_compare: Compare, pinned: Lab) -> None:
    picture(snap_compare, pinned, "finetune", (80, 24))


def test_help(snap_compare: Compare, pinned: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tui.help.config_dir", lambda: Path("/home/you/.config/olivepress"))
    picture(snap_compare, pinned, "quantize", (80, 24), "f2")


@pytest.mark.parametrize("size", SIZES, ids=IDS)
def test_guide(snap_compare: Compare, pinned: Lab, size: tuple[int, int]) -> None:
    picture(snap_compare, pinned, "quantize", size, "i")


def test_leaving(snap_compare: Compare, pinned: Lab) -> None:
    job = job_in(pinned, "finetune", "running")
    picture(snap_compare, pinned, "finetune", (80, 24), "q")
    job.let_go()


def test_more_settings(snap_compare: Compare, pinned: Lab) -> None:
    picture(snap_compare, pinned, "quantize", (80, 24), "up", "enter", "down", "down")


@pytest.mark.parametrize("size", SIZES, ids=IDS)
def test_search(snap_compare: Compare, pinned: Lab, size: tuple[int, int]) -> None:
    mb = 10**6
    tries = [
        Try(1, "awq+gptq, 4 bits, groups of 32", {}, "measured", "", 2450 * mb, 0.071, 0.021, 31.4, None, 1.0, True),
        Try(2, "awq+gptq, 4 bits, groups of 64", {}, "measured", "", 2330 * mb, 0.083, 0.026, 33.0, None, 1.0, True),
        Try(3, "gptq, 4 bits, groups of 32", {}, "estimated", "", 2450 * mb, 0.112, part=0.25),
        Try(4, "awq, 4 bits, groups of 64", {}, "dropped", "others do better on 4 layers", 2330 * mb, 0.13, part=0.1),
        Try(5, f"rtn, 4 bits, {NASTY[3]}", {}, "dropped", NASTY[4], 2330 * mb, 0.31, part=0.1),
        Try(6, "rtn, 8 bits, groups of 128", {}, "refused", "4.0 GiB is too large", 4100 * mb),
    ]  # fmt: skip
    write_board(pinned.folder, Board("quantize", "at most 2.3 GiB", tuple(tries), 1, True))
    picture(snap_compare, pinned, "quantize", size, "s")


def test_log_large(snap_compare: Compare, pinned: Lab) -> None:
    job_in(pinned, "quantize", "failed")
    picture(snap_compare, pinned, "quantize", (80, 24), "l")


@pytest.mark.parametrize("theme", ["olive-light", "ansi-dark", "ansi-light"])
def test_themes(snap_compare: Compare, pinned: Lab, theme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tui.app.default_theme", lambda: theme)
    job = job_in(pinned, "finetune", "running")
    picture(snap_compare, pinned, "finetune", (80, 24))
    job.let_go()


def test_sixty_by_twenty(snap_compare: Compare, pinned: Lab) -> None:
    job = job_in(pinned, "finetune", "running")
    picture(snap_compare, pinned, "finetune", (60, 20))
    job.let_go()


def test_too_small(snap_compare: Compare, pinned: Lab) -> None:
    picture(snap_compare, pinned, "check", (50, 12))
