"""The whole of a run elsewhere on the rehearsal model, for real: ``python -m tests.azure.whole_job`` (some minutes).

A lab is sent to the played service from the wizard, by keys, and the wizard is left. The machine there installs
the wheel into a fresh environment and runs the job's command; one is taken back in the middle of a training.
The results come back, and the chat, by keys, answers here.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from core.lab import Lab
from tests.azure import azurite
from tests.azure.certs import make_certificates
from tests.azure.conftest import World
from tests.azure.fake import SUBSCRIPTION, TENANT, FakeAzure
from tests.azure.proxy import ConnectProxy
from tests.tui.conftest import opened, screen_text, until
from tui.screens.chat.screen import ChatScreen
from tui.widgets.button import Button

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 180.0
"""Seconds that a screen may take."""
ROUTES = ("management.azure.com", "login.microsoftonline.com", ".blob.core.windows.net", ".api.azureml.ms")


def main() -> int:
    if reason := azurite.missing():
        print(reason)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        return _in(Path(folder))


def _in(folder: Path) -> int:
    storage = azurite.Azurite(folder / "azurite")
    ca, cert, key = make_certificates(folder / "certs")
    fake = FakeAzure(cert, key, storage.port)
    proxy = ConnectProxy(dict.fromkeys(ROUTES, fake.port))
    try:
        return _run(folder, World(fake, proxy, ca, cert, key))
    finally:
        fake.played.close()
        proxy.close()
        fake.close()
        storage.close()


def _run(folder: Path, world: World) -> int:
    played = world.fake.played
    played.container = world.fake.make_container()
    played.runs, played.whole_command = "command", True
    os.environ["PLAYED_PYTHON"] = sys.executable
    home = folder / "home"
    home.mkdir()
    env = {
        **os.environ,
        **world.environment(home, 10),
        "PYTHONPATH": str(ROOT),
        "AZURE_CLIENT_ID": "55555555-5555-5555-5555-555555555555",
        "AZURE_TENANT_ID": TENANT,
        "AZURE_CLIENT_SECRET": world.fake.client_secret,
        "HF_HUB_OFFLINE": "1",
        "OLIVEPRESS_GUIDE": "off",
    }
    os.environ.update(env)
    values = {
        "upload.subscription": SUBSCRIPTION,
        "upload.resource_group": "rg-travel",
        "upload.workspace": "travel-ws",
        "finetune.save_steps": 5,
    }
    lab = Lab.create(folder / "lab", settings=values)
    began = time.monotonic()
    asyncio.run(_send_by_keys(lab, played))
    print(f"quantize was sent by keys and the wizard left, after {time.monotonic() - began:.0f} s")
    print(f"{lab.jobs()[-1].id}: {lab.jobs()[-1].wait()}")
    taken: list[float] = []
    threading.Thread(target=_take_back, args=(played, taken), daemon=True).start()
    words = ("finetune", "optimize", "--on", "azureml", "--compute", "gpu-cluster", "--detach")
    assert _olivepress(env, "run", str(lab.root), *words).wait() == 0
    while len(lab.jobs()) < 3 and lab.jobs()[-1].wait() == "succeeded":
        time.sleep(0.5)  # until the next of the chain begins
    states = {job.id: job.wait() for job in lab.jobs()}
    print(f"{states} after {time.monotonic() - began:.0f} s; taken back: {bool(taken)}")
    for job in lab.jobs():
        if error := job.error():
            print(error, "\n".join(job.log_tail()))
    if len(states) < 3 or set(states.values()) != {"succeeded"}:
        return 1
    manifest = json.loads((lab.folder.finetuned_dir("travel") / "olivepress.json").read_text())
    print(f"finetune: {manifest['made_on']}, resumed from step {manifest['result'].get('resumed_from')}")
    starts = {job.name: job.starts for job in played.jobs.values()}
    print(f"jobs there, with their machines: {starts}")
    again = _olivepress(env, "run", str(lab.root), "--no-check", "--json")
    unchanged = sum("Nothing has changed" in json.loads(line).get("text", "") for line in again.stdout or ())
    print(f"a run here: exit status {again.wait()}, unchanged stages: {unchanged} of 3")
    answer = asyncio.run(_chat_by_keys(lab))
    print(f"the chat answers: {answer!r}")
    good = len(starts) == 2 and unchanged == 3 and answer and taken
    print("good" if good else "NOT GOOD")
    return 0 if good else 1


def _olivepress(env: dict[str, str], *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "core.cli", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)


async def _send_by_keys(lab: Lab, played: Any) -> None:
    """Choose the machine, submit, and leave the wizard as soon as the job is in Azure."""
    async with opened(lab.root, "quantize") as (app, pilot):
        await until(pilot, lambda: isinstance(app.focused, Button))
        await pilot.press("a")
        await until(pilot, lambda: "gpu-cluster" in screen_text(app), PATIENCE)
        await pilot.press("down", "enter")
        await until(pilot, lambda: "Runs on gpu-cluster" in screen_text(app), PATIENCE)
        await pilot.press("f8")
        await until(pilot, lambda: "Nothing has been sent yet." in screen_text(app), PATIENCE)
        await pilot.press("f8")
        await until(pilot, lambda: bool(played.jobs), PATIENCE)


async def _chat_by_keys(lab: Lab) -> str:
    """Come back, and ask what was made there."""
    async with opened(lab.root, "chat") as (app, pilot):
        screen = app.current
        assert isinstance(screen, ChatScreen)
        await until(
            pilot, lambda: screen.controller.chat is not None and screen.controller.chat.ready, PATIENCE
        )
        await until(pilot, lambda: screen.focused is screen.field, PATIENCE)
        screen.field.text = "What should I see in Paris?"
        await pilot.press("enter")
        await until(pilot, lambda: _answer(screen), PATIENCE)
        return _answer(screen)


def _answer(screen: ChatScreen) -> str:
    turns = screen.controller.chat.turns if screen.controller.chat is not None else []
    return str(turns[-1].answer.answer) if turns and turns[-1].answer else ""


def _take_back(played: Any, taken: list[float]) -> None:
    """Once a checkpoint has been kept, the machine is taken back."""
    while not taken:
        time.sleep(0.5)  # between two looks at the storage
        kept = [blob.name for blob in played.container.list_blobs() if blob.name.endswith("/last.pt")]
        job = next((each for each in list(played.jobs.values()) if each.status == "Running"), None)
        if kept and job is not None:
            taken.append(time.monotonic())
            played.end(job, "preempt")


if __name__ == "__main__":
    sys.exit(main())
