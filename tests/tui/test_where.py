"""A stage on a machine of Azure ML, from the wizard by keys: choose it, submit, quit, come back, see the result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.lab import Lab
from core.remote.asked import on
from tests.azure.conftest import World, azure, blobs, emulator, services  # noqa: F401 - fixtures
from tests.azure.fake import SUBSCRIPTION
from tests.azure.labs import signed_in
from tests.azure.played import PlayedJob
from tests.tui.conftest import opened, screen_text, until
from tui.screens.stage.screen import StageScreen
from tui.screens.where import WhereScreen
from tui.widgets.button import Button


@pytest.fixture
def there(blobs: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:  # noqa: F811
    """The service; a job there is done as soon as it is sent, and has left a result."""
    signed_in(blobs, monkeypatch)
    played = blobs.fake.played
    played.container = blobs.fake.make_container()

    def play(job: PlayedJob) -> None:
        out = job.properties["outputs"]["lab"]["uri"].split("/paths/")[1].rstrip("/")
        files = {"config.json": b"{}", "olivepress.json": b'{"auto": [], "result": {"bytes_after": 7}}'}
        told = {
            "folder": f"made/quantize-{'ab' * 8}",
            "result": {"bytes_after": 7},
            "files": {name: [len(data), hashlib.sha256(data).hexdigest()] for name, data in files.items()},
        }
        for name, data in {**files, "": json.dumps(told).encode()}.items():
            place = f"{out}/{told['folder']}/{name}" if name else f"{out}/quantize.json"
            played.container.upload_blob(place, data, overwrite=True)
        job.status = "Completed"

    played.runs, played.plays = "canned", play
    yield blobs
    played.close()


def _said(app: Any) -> str:
    """What the dialog on top says, on one line."""
    return " ".join(str(app.screen.query_one("#said").content).split())


async def _a_new_cluster(app: Any, pilot: Any, there: World) -> None:
    """It is looked at, and made only when that is said; here it is not."""
    await pilot.press("n")
    await until(pilot, lambda: "Standard_NC96ads_A100_v4" in screen_text(app), timeout=60)
    await pilot.press("down", "enter")
    await until(pilot, lambda: "There is a compute gpu-cluster already" in screen_text(app), timeout=60)
    await pilot.press("shift+tab", "end", "2", "f5", "down", "enter")
    await until(pilot, lambda: "been made yet." in screen_text(app), timeout=60)
    text = _said(app)
    assert "gpu-cluster2 in westeurope" in text
    assert "may be taken back at any time" in text
    assert "0.734 USD an hour" in text
    assert "idle is given back after 10 min" in text
    assert not there.fake.seen(method="PUT", path="/computes/")
    await pilot.press("escape")
    await until(pilot, lambda: isinstance(app.screen, WhereScreen))


async def test_submit_quit_and_come_back(there: World, tmp_path: Path) -> None:
    values = {
        "upload.subscription": SUBSCRIPTION,
        "upload.resource_group": "rg-travel",
        "upload.workspace": "travel-ws",
    }
    lab = Lab.create(tmp_path / "lab", settings=values)
    async with opened(lab.root, "quantize") as (app, pilot):
        await until(pilot, lambda: isinstance(app.focused, Button))
        await pilot.press("a")
        await until(pilot, lambda: isinstance(app.screen, WhereScreen))
        await until(pilot, lambda: "gpu-cluster" in screen_text(app), timeout=60)
        text = screen_text(app)
        assert "This machine" in text
        await _a_new_cluster(app, pilot, there)
        assert "3.67 USD/h" in text
        await pilot.press("down", "enter")
        await until(pilot, lambda: isinstance(app.screen, StageScreen))
        await until(pilot, lambda: "Runs on gpu-cluster of Azure ML" in screen_text(app))
        assert "Machine" in screen_text(app), "the buttons fit"
        await pilot.press("f8")
        await until(pilot, lambda: "Nothing has been sent yet." in screen_text(app), timeout=60)
        assert "88.08 at most" in _said(app), "what a day of it costs"
        assert "lab/lab.toml" in screen_text(app)
        assert "job.yml" in screen_text(app)
        assert not there.fake.played.jobs
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
    manifest = lab.manifest("quantize") or {}
    assert manifest["made_on"]["compute"] == "gpu-cluster"
    (sent,) = there.fake.played.jobs.values()
    assert sent.status == "Completed"
