"""A stage on a machine of Azure ML, from the wizard by keys: choose it, submit, quit, come back, see the result."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.lab import Lab
from core.remote.asked import on
from tests.azure.conftest import World, azure, blobs, emulator, services  # noqa: F401 - fixtures
from tests.azure.fake import SUBSCRIPTION
from tests.azure.labs import signed_in
from tests.tui.conftest import opened, screen_text, until
from tui.screens.stage.screen import StageScreen
from tui.screens.where import WhereScreen
from tui.widgets.button import Button


@pytest.fixture
def there(blobs: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:  # noqa: F811
    """The service, whose machines run a job's command with the quick stages."""
    signed_in(blobs, monkeypatch)
    monkeypatch.setenv("PLAYED_PYTHON", sys.executable)
    monkeypatch.setenv("OLIVEPRESS_PLUGIN", "tests.fake_stages.plugin")
    played = blobs.fake.played
    played.container = blobs.fake.make_container()
    played.runs, played.path = "command", str(Path(__file__).resolve().parents[2])
    played.variables = {"OLIVEPRESS_PLUGIN": "tests.fake_stages.plugin"}
    yield blobs
    played.close()


async def test_submit_quit_and_come_back(there: World, tmp_path: Path) -> None:
    values = {
        "upload.subscription": SUBSCRIPTION,
        "upload.resource_group": "rg-travel",
        "upload.workspace": "travel-ws",
        "chat.system": "steps",
    }
    lab = Lab.create(tmp_path / "lab", settings=values)
    async with opened(lab.root, "quantize") as (app, pilot):
        await until(pilot, lambda: isinstance(app.focused, Button))
        await pilot.press("a")
        await until(pilot, lambda: isinstance(app.screen, WhereScreen))
        await until(pilot, lambda: "gpu-cluster" in screen_text(app), timeout=60)
        text = screen_text(app)
        assert "This machine" in text
        assert "3.67 USD/h" in text
        await pilot.press("down", "enter")
        await until(pilot, lambda: isinstance(app.screen, StageScreen))
        await until(pilot, lambda: "Runs on gpu-cluster of Azure ML" in screen_text(app))
        assert "Machine" in screen_text(app), "the buttons fit"
        await pilot.press("f8")
        await until(pilot, lambda: bool(there.fake.played.jobs), timeout=60)
    (job,) = lab.jobs()
    where = on(job.spec["options"])
    assert where is not None
    assert where.compute == "gpu-cluster"
    assert job.wait(120) == "succeeded", job.log_tail()
    async with opened(lab.root, "quantize") as (app, pilot):
        await until(pilot, lambda: "Done" in screen_text(app))
        assert "on gpu-cluster" in screen_text(app), "the next goes there too"
    assert (lab.folder.quantized_dir / "part-0").is_file()
    (sent,) = there.fake.played.jobs.values()
    assert sent.status == "Completed"
