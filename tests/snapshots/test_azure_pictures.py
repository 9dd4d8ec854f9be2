"""Pictures of the dialogs about a run elsewhere, as in ``test_upload_pictures.py``: where, what is sent, a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from textual.screen import Screen

from core.errors import LabError
from core.lab import Lab
from tests.snapshots.conftest import Compare
from tests.snapshots.test_snapshots import LOW, at, pinned
from tests.snapshots.test_upload_pictures import PLACE, REFUSED, USER, azure
from tests.tui.conftest import screen_text, until
from tests.tui.nasty import NASTY
from tui.app import OlivePressApp
from tui.screens.stage.screen import StageScreen
from tui.screens.there import NewClusterScreen, SendScreen
from tui.screens.upload_dialogs import Working
from tui.screens.where import WhereScreen

__all__ = ["azure", "pinned"]

A100 = {"size": "Standard_NC24ads_A100_v4", "gpus": 1, "price": 3.67, "currency": "USD", "state": "Succeeded"}
COMPUTES: dict[str, Any] = {
    "workspace": "travel-ws",
    "compute": [
        {**A100, "name": "gpu-cluster", "usable": True, "idle_s": 600, "quota_used": 0, "quota_limit": 96},
        {**A100, "name": "gpu-low", "usable": True, "price": 0.734, "low_priority": True, "idle_s": 120},
        {"name": "cpu-cluster", "size": "Standard_DS12_v2", "usable": True, "price": 0.37, "currency": "USD"},
        {**A100, "name": "broken", "usable": False, "state": "Failed", "why_not": "its state is Failed"},
    ],
}
NASTY_COMPUTES: dict[str, Any] = {
    "workspace": NASTY[3],
    "compute": [{"name": text, "size": NASTY[4], "state": NASTY[7]} for text in NASTY if text.strip()],
}
SIZES: dict[str, Any] = {
    "location": "westeurope",
    "sizes": [
        {
            "name": f"Standard_NC{24 * gpus}ads_A100_v4",
            "gpus": gpus,
            "vcpus": 24 * gpus,
            "memory_gb": 220 * gpus,
            "price": 3.67 * gpus,
            "low_price": 0.734 * gpus,
            "currency": "USD",
        }
        for gpus in (1, 2, 4)
    ],
}
CLUSTER: dict[str, Any] = {
    "dry_run": True,
    "name": "gpu-cluster",
    "size": "Standard_NC24ads_A100_v4",
    "gpus": 1,
    "priority": "dedicated",
    "nodes_max": 1,
    "price": 3.67,
    "currency": "USD",
    "idle_s": 600,
    "location": "westeurope",
}
TO_SEND: dict[str, Any] = {
    "dry_run": True,
    "compute": "gpu-cluster",
    "size": "Standard_NC24ads_A100_v4",
    "gpus": 1,
    "priority": "low",
    "hours_at_most": 24,
    "price_an_hour": 0.734,
    "cost_at_most": 17.62,
    "currency": "USD",
    "quota_used": 0,
    "quota_limit": 96,
    "bytes": 2_491_000_000,
    "bytes_to_send": 1_912_000,
    "storage": "travelstore/azureml",
    "contents": [
        {"name": "lab/lab.toml", "bytes": 912},
        {"name": "lab/towns.jsonl", "bytes": 1_482},
        {"name": "olivepress.whl", "bytes": 1_910_000},
    ],
    "left_out": [{"name": "lab/cache", "why": "a link out of the folder"}],
    "file": "type: command\ndisplay_name: quantize of travel-lab\ncompute: azureml:gpu-cluster\n",
}
NASTY_TO_SEND: dict[str, Any] = {
    **TO_SEND,
    "compute": NASTY[3],
    "contents": [{"name": text[:300], "bytes": 10} for text in NASTY] + [{"name": "Compute: no", "bytes": 1}],
    "left_out": [{"name": NASTY[1], "why": "Compute: " + NASTY[4]}],
    "file": "\n".join(NASTY),
}

Answers = tuple[dict[str, Any] | LabError | None, ...]


def answering(answers: Answers) -> Callable[..., Any]:
    """Stands where the commands would: each gets the next of these, None never ends."""
    left = list(answers)

    async def answer(commands: object, *words: str, on_line: object = None) -> dict[str, Any]:
        found = left.pop(0)
        if isinstance(found, LabError):
            raise found
        if found is None:
            await asyncio.Event().wait()
        assert found is not None
        return found

    return answer


STATES: dict[str, tuple[Answers, tuple[str, ...], type[Working], str]] = {
    # what is answered, the keys, the dialog, and the words that stand there when it is done
    "asking": ((None,), ("a",), WhereScreen, "Asking Azure"),
    "machines": ((COMPUTES,), ("a",), WhereScreen, "Results come back"),
    "no-machine": (({"workspace": "travel-ws", "compute": []},), ("a",), WhereScreen, "no compute yet"),
    "refused": ((REFUSED,), ("a",), WhereScreen, "AADSTS"),
    "unusable": ((COMPUTES,), ("a", "end", "enter"), WhereScreen, "No job can run"),
    "nasty": ((NASTY_COMPUTES,), ("a",), WhereScreen, "Results come back"),
    "sizes": ((COMPUTES, SIZES), ("a", "n"), NewClusterScreen, "3 sizes in"),
    "low-priority": ((COMPUTES, SIZES), ("a", "n", "f5"), NewClusterScreen, "Priority: low"),
    "cluster-cost": ((COMPUTES, SIZES, CLUSTER), ("a", "n", "down", "enter"), NewClusterScreen, "made yet"),
    "cluster-refused": ((COMPUTES, SIZES, REFUSED), ("a", "n", "down", "enter"), NewClusterScreen, "AADSTS"),
    "looking": ((COMPUTES, None), ("a", "down", "enter", "f8"), SendScreen, "Looking at"),
    "send": ((COMPUTES, TO_SEND), ("a", "down", "enter", "f8"), SendScreen, "Nothing has been sent yet"),
    "send-nasty": (
        (COMPUTES, NASTY_TO_SEND),
        ("a", "down", "enter", "f8"),
        SendScreen,
        "Nothing has been sent",
    ),
    "send-refused": ((COMPUTES, REFUSED), ("a", "down", "enter", "f8"), SendScreen, "AADSTS"),
}


def is_another(app: OlivePressApp, before: Screen[Any]) -> bool:
    """Whether a dialog has come over what was on the screen."""
    return app.screen is not before


@pytest.mark.parametrize(("state", "size"), at(*STATES, sizes=LOW))
def test_elsewhere(
    snap_compare: Compare, pinned: Lab, azure: Callable[..., None], state: str, size: tuple[int, int]
) -> None:
    answers, keys, dialog, words = STATES[state]
    pinned.set(PLACE)
    azure(USER, answering(answers))

    async def steps(pilot: Any) -> None:
        app = pilot.app
        await until(pilot, lambda: isinstance(app.screen, StageScreen) and app.screen.focused is not None)
        for key in keys:
            before = app.screen
            await until(pilot, lambda: not getattr(app.screen, "working", False))
            await pilot.press(key)
            if key in ("a", "n", "f8"):
                await until(pilot, partial(is_another, app, before))
            elif key == "enter" and dialog is SendScreen:
                await until(pilot, lambda: isinstance(app.screen, StageScreen))
        await until(pilot, lambda: isinstance(app.screen, dialog) and words in screen_text(app))

    assert snap_compare(OlivePressApp(pinned.root, "quantize"), size, steps)
