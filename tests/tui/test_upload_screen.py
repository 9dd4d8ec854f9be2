"""The upload screen driven by keys: sign in, choose, look, upload, cancel, go on. Against the fake Azure."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from core.lab import Lab
from tests.azure.conftest import World, azure, blobs, emulator, services  # noqa: F401 - fixtures
from tests.azure.fake import USER
from tests.azure.labs import MIB, make_lab, signed_in
from tests.tui.conftest import opened, screen_text, until
from tui.screens.upload import UploadScreen
from tui.screens.upload_dialogs import PlanScreen, SignInScreen, WorkspaceScreen
from tui.widgets.button import Button
from tui.widgets.safe import Plain


@pytest.fixture
def bare(tmp_path: Path) -> Lab:
    """A lab with a model and no workspace chosen."""
    lab = make_lab(
        tmp_path / "lab", {"model.onnx.data": 40 * MIB, "model.onnx": 100_000}, seed=time.time_ns()
    )
    lab.set(
        {
            "upload.concurrency": 2,
            "upload.subscription": "",
            "upload.resource_group": "",
            "upload.workspace": "",
        }
    )
    return lab


async def ready(app: Any, pilot: Any) -> UploadScreen:
    """The screen, with the focus on a button: letters are keys then."""
    screen = app.current
    assert isinstance(screen, UploadScreen)
    await until(pilot, lambda: isinstance(app.focused, Button))
    return screen


async def test_sign_in_pick_look_upload_cancel_and_go_on(
    blobs: World,  # noqa: F811
    bare: Lab,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OLIVEPRESS_AZURE_PATIENCE", "60")
    async with opened(bare.root, "upload") as (app, pilot):
        await ready(app, pilot)
        await until(pilot, lambda: "Nobody is signed in" in screen_text(app))

        await pilot.press("s")
        await until(pilot, lambda: isinstance(app.screen, SignInScreen))
        await pilot.press("down", "enter")
        await until(pilot, lambda: "ABCD-EFGH" in screen_text(app))
        text = screen_text(app)
        assert "https://microsoft.com/devicelogin" in text
        assert "within 14 min" in text or "within 15 min" in text
        await pilot.press("y")
        assert app.clipboard == "ABCD-EFGH"
        blobs.fake.approved.set()
        await until(pilot, lambda: isinstance(app.screen, UploadScreen))
        await until(pilot, lambda: f"Signed in as {USER}" in screen_text(app))

        await pilot.press("w")
        await until(pilot, lambda: isinstance(app.screen, WorkspaceScreen))
        await until(pilot, lambda: "second-ws" in screen_text(app))
        await pilot.press(*"trav")
        await until(pilot, lambda: "second-ws" not in screen_text(app))
        assert "rg-travel" in screen_text(app)
        await pilot.press("enter")
        await until(pilot, lambda: bare.recipe.upload.workspace == "travel-ws")
        await ready(app, pilot)

        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, PlanScreen))
        await until(pilot, lambda: "would go to travel-ws" in screen_text(app))
        assert "model.onnx.data" in screen_text(app)
        assert "ft-for-travel:1" in screen_text(app)
        assert not blobs.fake.blocks()
        await pilot.press("escape")
        await ready(app, pilot)

        blobs.proxy.rate = 4e6
        await pilot.press("f8")
        await until(
            pilot, lambda: "MiB of 40" in screen_text(app) and len(blobs.fake.blocks()) >= 1, timeout=40
        )
        await pilot.press("f9", "x")
        await until(pilot, lambda: bare.jobs()[-1].state == "cancelled", timeout=20)
        await until(pilot, lambda: "kept for the next time" in screen_text(app))
        assert blobs.fake.models == {}

        blobs.proxy.rate = None
        await ready(app, pilot)
        await until(pilot, lambda: "Go on" in screen_text(app))
        await pilot.press("f8")
        await until(pilot, lambda: "Done" in screen_text(app), timeout=40)
        await until(pilot, lambda: "ml.azure.com" in screen_text(app))
        assert list(blobs.fake.models) == ["ft-for-travel"]
        numbers = bare.jobs()[-1].result or {}
        assert 0 < numbers["bytes_sent"] < numbers["bytes"], "what had arrived was not sent again"


async def test_a_sign_in_is_given_up_with_escape(azure: World, bare: Lab) -> None:  # noqa: F811
    async with opened(bare.root, "upload") as (app, pilot):
        await ready(app, pilot)
        await pilot.press("s")
        await until(pilot, lambda: isinstance(app.screen, SignInScreen))
        await pilot.press("down", "enter")
        await until(pilot, lambda: "ABCD-EFGH" in screen_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: "Given up" in screen_text(app))
        assert "ABCD-EFGH" not in screen_text(app)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, UploadScreen))
        assert "Nobody is signed in" in screen_text(app)


async def test_a_refusal_is_read_on_the_dialog(azure: World, bare: Lab) -> None:  # noqa: F811
    azure.fake.device_error = "AADSTS53003"
    async with opened(bare.root, "upload") as (app, pilot):
        await ready(app, pilot)
        await pilot.press("s")
        await until(pilot, lambda: isinstance(app.screen, SignInScreen))
        await pilot.press("down", "enter")
        await until(pilot, lambda: "AADSTS53003" in screen_text(app))
        told = app.screen.query_one("#said", Plain).text
        assert "Run az login on this machine, then: sign in above." in told, "no command: what it is here"


async def test_no_workspace_to_see_is_told(
    azure: World,  # noqa: F811
    bare: Lab,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    signed_in(azure, monkeypatch)
    azure.fake.workspaces.clear()
    async with opened(bare.root, "upload") as (app, pilot):
        await ready(app, pilot)
        await until(pilot, lambda: "Would sign in by a service principal" in screen_text(app))
        await pilot.press("w")
        await until(pilot, lambda: "There is no Azure ML workspace" in screen_text(app))
        await pilot.press("escape")
        await ready(app, pilot)


async def test_what_would_go_is_shown_before_anyone_signs_in(azure: World, bare: Lab) -> None:  # noqa: F811
    async with opened(bare.root, "upload") as (app, pilot):
        await ready(app, pilot)
        await until(pilot, lambda: "7 files, 40.1 MiB, would go" in screen_text(app))
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, PlanScreen))
        await until(pilot, lambda: "model.onnx.data" in screen_text(app))
        assert "40.0 MiB" in screen_text(app)
        assert "Sign in and choose" in screen_text(app)
        (bare.folder.onnx_dir / "another.bin").write_bytes(b"x")
        await pilot.press("escape")
        app.look_now()
        await until(pilot, lambda: "8 files, 40.1 MiB, would go" in screen_text(app))
    assert azure.fake.requests == []


async def test_a_sign_in_that_is_kept_nowhere_is_shared_by_the_dialogs(
    blobs: World,  # noqa: F811
    bare: Lab,
) -> None:
    blobs.fake.approved.set()
    async with opened(bare.root, "upload") as (app, pilot):
        await ready(app, pilot)
        await pilot.press("s")
        await until(pilot, lambda: isinstance(app.screen, SignInScreen))
        await pilot.press("down", "down", "enter")
        await until(pilot, lambda: f"Signed in as {USER}" in screen_text(app))
        await ready(app, pilot)
        await pilot.press("w")
        await until(pilot, lambda: "second-ws" in screen_text(app))
        await pilot.press(*"trav", "enter")
        await until(pilot, lambda: bare.recipe.upload.workspace == "travel-ws")
        await ready(app, pilot)
        await pilot.press("d")
        await until(pilot, lambda: "would go to travel-ws" in screen_text(app))
        assert len(blobs.fake.seen(path="devicecode")) == 1, "one code for all of them"
        await pilot.press("escape")
        await ready(app, pilot)

        # The upload is a job of its own, which outlives the wizard: it asks for its own code, on the screen.
        blobs.fake.approved.clear()
        await pilot.press("f8")
        await until(
            pilot,
            lambda: "enter ABCD-EFGH at https://microsoft.com/devicelogin" in screen_text(app),
            timeout=40,
        )
        blobs.fake.approved.set()
        await until(pilot, lambda: "Done" in screen_text(app), timeout=40)


async def test_a_code_is_shown_by_a_dialog_that_needs_one(
    azure: World,  # noqa: F811
    bare: Lab,
) -> None:
    from core.azure.signin import Choice, remember

    remember(Choice("device", user=USER))
    async with opened(bare.root, "upload") as (app, pilot):
        await ready(app, pilot)
        await pilot.press("w")
        await until(pilot, lambda: "ABCD-EFGH" in screen_text(app))
        azure.fake.approved.set()
        await until(pilot, lambda: "second-ws" in screen_text(app))
