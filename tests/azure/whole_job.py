"""The whole of a run elsewhere on the rehearsal model, for real: ``python -m tests.azure.whole_job`` (some minutes).

A lab is sent to the played service; the machine there installs the wheel into a fresh environment and runs the job's
command; it is taken back in the middle of the training; the results come back, and the chat answers here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests.azure import azurite
from tests.azure.certs import make_certificates
from tests.azure.conftest import World
from tests.azure.fake import SUBSCRIPTION, TENANT, FakeAzure
from tests.azure.proxy import ConnectProxy

ROOT = Path(__file__).resolve().parents[2]
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
    }
    lab = folder / "lab"

    def olivepress(*words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "core.cli", *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)

    place = ("subscription=" + SUBSCRIPTION, "resource_group=rg-travel", "workspace=travel-ws")
    settings = [word for each in place for word in ("--set", f"upload.{each}")]
    more = ("--set", "finetune.save_steps=5")
    assert olivepress("new", str(lab), *settings, *more).wait() == 0
    began = time.monotonic()
    run = olivepress("run", str(lab), "--on", "azureml", "--compute", "gpu-cluster", "--json")
    taken: list[float] = []
    threading.Thread(target=_take_back, args=(played, taken), daemon=True).start()
    events = [json.loads(line) for line in run.stdout or ()]
    status = run.wait()
    print(f"run: exit status {status} after {time.monotonic() - began:.0f} s; taken back: {bool(taken)}")
    if status:
        print(json.dumps(events[-1]))
        return status
    manifest = json.loads((lab / "models/finetuned/travel/olivepress.json").read_text())
    print(f"finetune: {manifest['made_on']}, resumed from step {manifest['result'].get('resumed_from')}")
    starts = {job.name: job.starts for job in played.jobs.values()}
    print(f"jobs there, with their machines: {starts}")
    again = olivepress("run", str(lab), "--no-check", "--json")
    unchanged = sum("Nothing has changed" in json.loads(line).get("text", "") for line in again.stdout or ())
    print(f"a run here: exit status {again.wait()}, unchanged stages: {unchanged} of 3")
    chat = olivepress("chat", str(lab), "--prompt", "What should I see in Paris?", "--json")
    answer: dict[str, Any] = json.loads((chat.communicate()[0] or "{}").splitlines()[-1])
    print(f"chat: {answer.get('answer')!r} by adapter {answer.get('adapter')}")
    good = len(starts) == 1 and unchanged == 3 and answer.get("answer") and taken
    print("good" if good else "NOT GOOD")
    return 0 if good else 1


def _take_back(played: Any, taken: list[float]) -> None:
    """Once a checkpoint has been kept, the machine is taken back."""
    while not taken:
        time.sleep(0.5)  # between two looks at the storage
        kept = [blob.name for blob in played.container.list_blobs() if blob.name.endswith("/last.pt")]
        job = next(iter(played.jobs.values()), None)
        if kept and job is not None and job.status == "Running":
            taken.append(time.monotonic())
            played.end(job, "preempt")


if __name__ == "__main__":
    sys.exit(main())
