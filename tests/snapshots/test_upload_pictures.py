"""Pictures of the upload in its states, as in ``test_snapshots.py``. No command is run: its lines are written here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from textual.widgets import Input

from core import errors
from core.azure.signin import Choice
from core.errors import LabError
from core.lab import Lab
from tests.snapshots.conftest import Compare
from tests.snapshots.test_snapshots import IDS, LOW, SIZES, at, pinned
from tests.tui.conftest import screen_text, until
from tests.tui.labs import RESULTS, FakeJob, job_in, made
from tests.tui.nasty import NASTY
from tui.app import OlivePressApp
from tui.screens.upload import UploadController, UploadScreen
from tui.screens.upload_dialogs import PlanScreen, SignInScreen, WorkspaceScreen

__all__ = ["pinned"]

USER = "you@example.org"
PLACE = {
    "upload.subscription": "11111111-2222-3333-4444-555555555555",
    "upload.resource_group": "rg-travel",
    "upload.workspace": "travel-ws",
}
PROMPT = {
    "type": "prompt",
    "code": "ABCD-EFGH",
    "uri": "https://microsoft.com/devicelogin",
    "expires": "2026-11-20T10:18:10.000Z",
}
REFUSED = LabError(
    "Your organisation does not allow signing in this way (conditional access).",
    "AADSTS53003",
    (
        "Run az login on this machine, then: ",
        errors.Do("login", ("--method", "cli")),
        ". Or ask for a service principal.",
    ),
)
ERROR = {
    "title": "You have no right to the workspace's storage.",
    "detail": "AuthorizationPermissionMismatch, travelstore/azureml.",
    "hint": "Ask for the role Storage Blob Data Contributor on its storage account.",
}
HOSTILE = {
    "title": NASTY[1] + NASTY[4],
    "detail": "\n".join(text for text in NASTY[:12] if text),
    "hint": NASTY[3] + NASTY[7] + NASTY[9],
}


def workspace(
    name: str, group: str, location: str = "westeurope", owner: str = "Travel team"
) -> dict[str, str]:
    """A workspace as ``olivepress workspaces --json`` tells of it."""
    return {
        "name": name,
        "resource_group": group,
        "subscription": PLACE["upload.subscription"],
        "subscription_name": owner,
        "location": location,
    }


WORKSPACES = [
    workspace("travel-ws", "rg-travel"),
    workspace("travel-test-ws", "rg-travel-test"),
    workspace("vision-ws", "rg-vision", "northeurope", "Vision"),
    workspace("a-workspace-with-a-rather-long-name", "rg-of-the-research-department", owner="Research"),
]
HOSTILE_WORKSPACES = [workspace(text[:80], NASTY[2], NASTY[9], NASTY[7]) for text in NASTY if text.strip()]
PLAN: dict[str, Any] = {
    "name": "ft-for-travel",
    "version": "3",
    "files": 14,
    "bytes": 2_491_000_000,
    "bytes_to_send": 1_868_250_000,
    "registered": False,
    "workspace": "travel-ws",
    "storage": "travelstore/azureml",
    "identity": {"user": USER, "method": "device"},
    "rights": {"storage": "unknown", "register": "yes"},
    "tags": {"base_model": "Llama-3.2-3B", "algorithm": "awq", "adapter": "travel", "precision": "int4"},
    "contents": [
        {"name": "adapters/travel.onnx_adapter", "bytes": 201_000_000},
        {"name": "genai_config.json", "bytes": 1_482},
        {"name": "lab.toml", "bytes": 912},
        {"name": "model.onnx", "bytes": 412_000},
        {"name": "model.onnx.data", "bytes": 2_289_000_000},
        *({"name": f"tokenizer/part-{n}.json", "bytes": 64_000 * n} for n in range(1, 8)),
    ],
    "left_out": [{"name": "cache/link", "why": "a link out of the folder"}],
}
HOSTILE_PLAN = {
    **PLAN,
    "workspace": NASTY[3],
    "identity": {"user": NASTY[4] + NASTY[7]},
    "contents": [{"name": text[:300], "bytes": 10} for text in NASTY],
    "left_out": [{"name": NASTY[1], "why": NASTY[4]}],
    "tags": {NASTY[0]: NASTY[9]},
}

Answer = Callable[..., Awaitable[dict[str, Any]]]
Do = Callable[[Any, UploadScreen], Awaitable[None]]


def told(result: dict[str, Any] | LabError | None, *lines: dict[str, Any]) -> Answer:
    """Stands where the command would: these lines, then this end; None goes on until it is ended."""

    async def answer(
        commands: object, *words: str, on_line: Callable[[dict[str, Any]], object] | None = None
    ) -> dict[str, Any]:
        for line in lines:
            if on_line is not None:
                on_line(line)
        if result is None:
            await asyncio.Event().wait()
        if isinstance(result, LabError):
            raise result
        assert isinstance(result, dict)
        return result

    return answer


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Who is signed in (nobody, until it is said), and what commands answer."""
    monkeypatch.setattr(Input, "_toggle_cursor", lambda self: None)

    def say(user: str = "", command: Answer | None = None) -> None:
        choice = Choice("device", user=user) if user else None
        monkeypatch.setattr("core.azure.signin.remembered", lambda: choice)
        monkeypatch.setattr("core.azure.signin.found", lambda: None)
        monkeypatch.setattr("tui.child.Commands.run", command or told({}))

    say()
    return say


def picture(
    snap_compare: Compare, lab: Lab, size: tuple[int, int], do: Do | None = None, log: str = ""
) -> None:
    """Compare the upload screen after ``do``; ``log`` stands in the log when all is drawn."""

    async def steps(pilot: Any) -> None:
        app = pilot.app
        screen = app.current
        assert isinstance(screen, UploadScreen)
        await until(pilot, lambda: app._watch is not None and app._watch._thread is not None)
        await until(pilot, lambda: screen.focused is not None)
        if app.snapshot.active is not None:
            await until(pilot, lambda: screen._top is not None and screen._top._load)
        if log:
            await until(pilot, lambda: log in screen_text(app) and not screen.log_pane._waiting)
        if do is not None:
            await do(pilot, screen)

    assert snap_compare(OlivePressApp(lab.root, "upload"), size, steps)


@pytest.mark.parametrize("size", SIZES, ids=IDS)
@pytest.mark.parametrize("state", ["blocked", "nobody", "no-workspace", "ready", "nasty"])
def test_empty(
    snap_compare: Compare,
    pinned: Lab,
    azure: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    size: tuple[int, int],
) -> None:
    if state != "blocked":
        made(pinned, ("quantize", "finetune", "optimize"))
    if state != "nobody":
        azure(USER)
    if state == "ready":
        pinned.set(PLACE)
    if state == "nasty":
        monkeypatch.setattr(UploadController, "look", lambda _: None)
        azure(NASTY[3] + NASTY[7] + NASTY[9])
        pinned.set({**PLACE, "upload.workspace": NASTY[3] + NASTY[7], "upload.resource_group": NASTY[4]})

    async def do(pilot: Any, screen: UploadScreen) -> None:
        # What would go is looked up in a thread, and drawn when it is known.
        unknown = state in ("blocked", "nasty")
        await until(pilot, lambda: unknown or "would go" in screen_text(pilot.app))

    picture(snap_compare, pinned, size, do)


@pytest.mark.parametrize("size", SIZES, ids=IDS)
@pytest.mark.parametrize("state", ["running", "cancelled", "failed", "succeeded", "nasty"])
def test_states(
    snap_compare: Compare,
    pinned: Lab,
    azure: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    size: tuple[int, int],
) -> None:
    pinned.set(PLACE)
    azure(USER)
    do: Do | None = None
    log = "Sending"
    if state == "nasty":
        job: FakeJob = job_in(pinned, "upload", "running")
        job.log("\n".join(NASTY) + "\nthe last line\n")
        job.end("failed", error=HOSTILE)
        log = "the last line"
    elif state == "failed":
        job = job_in(pinned, "upload", "running")
        job.end("failed", error=ERROR)
    else:
        job = job_in(pinned, "upload", state)
    if state == "running":
        now = [100.0]
        monkeypatch.setattr("tui.screens.upload.monotonic", lambda: now[0])

        async def more(pilot: Any, screen: UploadScreen) -> None:
            now[0] += 4.0
            job.progress("upload", 1_270_950_000, 2_491_000_000, 34.0)
            await until(pilot, lambda: "35.8 MiB/s" in screen_text(pilot.app))

        do = more
    picture(snap_compare, pinned, size, do, log)
    job.let_go()


def test_nasty_result(snap_compare: Compare, pinned: Lab, azure: Callable[..., None]) -> None:
    azure(USER)
    result = {
        **RESULTS["upload"],
        "name": NASTY[3],
        "workspace": NASTY[4] + NASTY[7],
        "url": NASTY[1] + NASTY[9],
    }
    job_in(pinned, "upload", "running").end("succeeded", result)
    picture(snap_compare, pinned, (80, 24), log="Sending")


@pytest.mark.parametrize(
    ("state", "size"), [*at("methods", "code"), *at("asking", "refused", "nasty", sizes=LOW)]
)
def test_signing_in(
    snap_compare: Compare, pinned: Lab, azure: Callable[..., None], state: str, size: tuple[int, int]
) -> None:
    made(pinned, ("quantize", "finetune", "optimize"))
    hostile = {**PROMPT, "code": "[@click=app.quit]\x1b[31m", "uri": NASTY[7]}
    command = {
        "asking": told(None),
        "code": told(None, PROMPT),
        "refused": told(REFUSED, PROMPT),
        "nasty": told(None, hostile),
    }.get(state)
    azure(NASTY[3] if state == "nasty" else "", command)

    async def do(pilot: Any, screen: UploadScreen) -> None:
        await pilot.press("s")
        await until(pilot, lambda: isinstance(pilot.app.screen, SignInScreen))
        words = {
            "methods": "service principal",
            "asking": "Asking",
            "code": "ABCD",
            "refused": "AADSTS",
            "nasty": "enter",
        }
        if state != "methods":
            await pilot.press("down", "enter")
        await until(pilot, lambda: words[state] in screen_text(pilot.app))

    picture(snap_compare, pinned, size, do)


@pytest.mark.parametrize(
    ("state", "size"),
    [*at("several", "nasty"), *at("asking", "filtered", "none-fits", "none", "failed", sizes=LOW)],
)
def test_workspaces(
    snap_compare: Compare, pinned: Lab, azure: Callable[..., None], state: str, size: tuple[int, int]
) -> None:
    made(pinned, ("quantize", "finetune", "optimize"))
    none = LabError(
        "There is no Azure ML workspace that you can see.",
        "Signed in as you@example.org, in 2 subscriptions.",
        "Ask for the role Reader on one, or sign in with another account.",
    )
    command = {"asking": told(None), "none": told(none), "failed": told(REFUSED)}.get(state)
    found = HOSTILE_WORKSPACES if state == "nasty" else WORKSPACES
    azure(USER, command or told({"workspaces": found}))

    async def do(pilot: Any, screen: UploadScreen) -> None:
        await pilot.press("w")
        await until(pilot, lambda: isinstance(pilot.app.screen, WorkspaceScreen))
        words = {"asking": "Asking", "none": "no Azure ML", "failed": "AADSTS"}.get(state, " of ")
        await until(pilot, lambda: words in screen_text(pilot.app))
        if state in ("filtered", "none-fits"):
            await pilot.press(*("test" if state == "filtered" else "zzz"))

    picture(snap_compare, pinned, size, do)


@pytest.mark.parametrize(
    ("state", "size"), [*at("plan", "nasty"), *at("asking", "registered", "failed", sizes=LOW)]
)
def test_dry_run(
    snap_compare: Compare, pinned: Lab, azure: Callable[..., None], state: str, size: tuple[int, int]
) -> None:
    made(pinned, ("quantize", "finetune", "optimize"))
    pinned.set(PLACE)
    command = {
        "asking": told(None),
        "registered": told({**PLAN, "registered": True, "bytes_to_send": 0}),
        "failed": told(LabError(ERROR["title"], ERROR["detail"], ERROR["hint"])),
        "nasty": told(HOSTILE_PLAN),
    }.get(state, told(PLAN))
    azure(USER, command)

    async def do(pilot: Any, screen: UploadScreen) -> None:
        await pilot.press("d")
        await until(pilot, lambda: isinstance(pilot.app.screen, PlanScreen))
        await until(
            pilot,
            lambda: (
                {"asking": "Looking", "failed": "no right"}.get(state, "Signed in") in screen_text(pilot.app)
            ),
        )

    picture(snap_compare, pinned, size, do)


def test_sixty_by_twenty(snap_compare: Compare, pinned: Lab, azure: Callable[..., None]) -> None:
    made(pinned, ("quantize", "finetune", "optimize"))
    picture(snap_compare, pinned, (60, 20))
