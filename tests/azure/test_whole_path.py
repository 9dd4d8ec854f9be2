"""The whole path by the command line: device code, pick, upload, kill, resume, register, list, fetch, compare."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import ResourceNotFoundError

from tests.azure.conftest import World
from tests.azure.fake import PLANTED_DEVICE, PLANTED_REFRESH, TENANT, USER
from tests.azure.labs import MIB, make_lab
from tests.waiting import until

BIG = {"model.onnx.data": 150 * MIB + 3, "extra.bin": 50 * MIB, "model.onnx": 3 * MIB}


def olivepress(*words: str, timeout: float = 100) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "core.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)


def result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture
def world(blobs: World, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("OLIVEPRESS_AZURE_PATIENCE", "20")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    return blobs


def sign_in(world: World) -> dict[str, Any]:
    command = [sys.executable, "-m", "core.cli", "login", "--method", "device", "--allow-file", "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
    )
    assert process.stdout is not None
    prompt = json.loads(process.stdout.readline())
    assert (prompt["type"], prompt["code"], prompt["uri"]) == (
        "prompt",
        "ABCD-EFGH",
        "https://microsoft.com/devicelogin",
    )
    assert 850 < prompt["expires_in_s"] <= 900
    world.fake.approved.set()
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    return dict(json.loads(out.splitlines()[-1]))


def test_from_device_code_to_the_same_bytes(world: World, tmp_path: Path) -> None:
    lab = make_lab(tmp_path / "lab", BIG, seed=time.time_ns())
    lab.set({"upload.workspace": "", "upload.resource_group": "", "upload.subscription": ""})

    assert sign_in(world) == {
        "type": "signed_in",
        "user": USER,
        "tenant": TENANT,
        "method": "device",
        "kept": "file",
    }
    listed = result(olivepress("workspaces", str(lab.root), "--json"))["workspaces"]
    assert [w["name"] for w in listed] == ["second-ws", "travel-ws"]
    result(olivepress("workspaces", str(lab.root), "--use", "travel", "--json"))
    assert lab.recipe.upload.workspace == "travel-ws"
    plan = result(olivepress("upload", str(lab.root), "--dry-run", "--json"))
    assert plan["bytes_to_send"] > 200 * MIB

    # Killed in the middle, as by a reboot: the job and whatever watches it.
    world.proxy.rate = 4e6
    job = lab.start("upload")
    until(lambda: len(world.fake.blocks()) >= 12)
    killed = kill_job(job)
    assert killed, "a process of the job was there to kill"
    world.proxy.rate = None
    assert job.wait() == "crashed"
    assert world.fake.models == {}
    until(lambda: not world.fake.in_flight)
    arrived = set(kept_blocks(world))
    assert len(arrived) >= 8
    world.fake.requests.clear()

    sent = result(olivepress("upload", str(lab.root), "--json"))
    again = arrived & set(world.fake.blocks())
    assert again == set(), "blocks that were there are not sent again"
    assert sent["bytes_sent"] == sent["bytes"] - 4 * MIB * len(arrived)
    assert sent["version"] == "1"
    assert result(olivepress("upload", str(lab.root), "--json"))["bytes_sent"] == 0

    models = result(olivepress("models", str(lab.root), "--json"))["models"]
    assert [(m["name"], m["version"], m["id"]) for m in models] == [("ft-for-travel", "1", sent["id"])]
    target = tmp_path / "back"
    fetched = result(olivepress("fetch", "ft-for-travel:1", str(target), "--lab", str(lab.root), "--json"))
    assert fetched["bytes"] == sent["bytes"]
    for path in [each for each in lab.folder.onnx_dir.rglob("*") if each.is_file()]:
        other = target / "models" / "onnx" / path.relative_to(lab.folder.onnx_dir)
        assert other.read_bytes() == path.read_bytes(), path.name
    from core.lab import Lab

    assert Lab.open(target).adapters() == ["travel"]
    assert Lab.open(target).recipe.upload.workspace == "travel-ws"

    nothing_secret(lab.root)
    assert world.proxy.refused == [], "no other host was asked for"
    assert result(olivepress("logout", "--json"))["user"] == USER
    refused = olivepress("upload", str(lab.root), "--json")
    assert refused.returncode == 4
    assert "You are not signed in to Azure." in refused.stderr
    assert json.loads(refused.stdout)["error"]["code"] == "azure.sign-in"


def kill_job(job: Any) -> int:
    """SIGKILL to every process of the job's session; how many there were."""
    import psutil

    count = 0
    for process in psutil.process_iter(["cmdline"]):
        if str(job.folder) in " ".join(process.info["cmdline"] or ()):
            os.kill(process.pid, signal.SIGKILL)
            count += 1
    return count


def kept_blocks(world: World) -> list[str]:
    """The blocks that the storage has of files that are not committed yet."""
    client = world.fake.make_container()
    names = {block.split("#")[0].split("/", 2)[2] for block in world.fake.blocks()}
    found = []
    for name in names:
        try:
            _, uncommitted = client.get_blob_client(name).get_block_list("uncommitted")
        except ResourceNotFoundError:  # its first block was cut off with the job
            continue
        found += [f"/{world.fake.container}/{name}#{block.id}" for block in uncommitted]
    return found


def nothing_secret(root: Path) -> None:
    from tests.azure.azurite import KEY

    for path in [each for each in root.rglob("*") if each.is_file() and "models" not in each.parts]:
        text = path.read_text(errors="replace")
        for secret in (PLANTED_REFRESH, PLANTED_DEVICE, KEY, "eyJ", "sig="):
            assert secret not in text, f"{secret} in {path}"


def test_login_that_is_interrupted_leaves_nothing(world: World) -> None:
    command = [sys.executable, "-m", "core.cli", "login", "--method", "device", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130
    assert olivepress("login", "--show", "--json").returncode == 4


def test_with_nothing_kept_each_command_shows_its_code_and_asks_once(world: World, tmp_path: Path) -> None:
    from core.azure.signin import Choice, remember

    lab = make_lab(tmp_path / "lab", {"model.onnx": 1000})
    remember(Choice("device", user=USER))
    world.fake.approved.set()
    target = str(tmp_path / "back")
    for words in (
        ["workspaces", "--json"],
        ["upload", str(lab.root), "--dry-run", "--json"],
        ["upload", str(lab.root), "--json"],
        ["models", str(lab.root)],
        ["fetch", "ft-for-travel", target, "--workspace", "travel-ws", "--json"],
    ):
        world.fake.requests.clear()
        done = olivepress(*words)
        assert done.returncode == 0, done.stderr
        assert "ABCD-EFGH" in done.stderr, words
        assert len(world.fake.seen(path="devicecode")) == 1, words
        assert PLANTED_REFRESH not in done.stdout + done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert (told[0]["type"], told[0]["code"]) == ("prompt", "ABCD-EFGH")
    assert (told[-1]["name"], told[-1]["version"]) == ("ft-for-travel", "1")
    assert [job.folder.stat().st_mode & 0o777 for job in lab.jobs()] == [0o700], "its log has the code"


def test_no_secret_stands_in_the_arguments_of_a_process(
    world: World, tmp_path: Path, monkeypatch: Any
) -> None:
    import psutil

    from tests.azure.labs import signed_in

    signed_in(world, monkeypatch)
    lab = make_lab(tmp_path / "lab", {"model.onnx.data": 20 * MIB})
    world.proxy.rate = 2e6
    job = lab.start("upload")
    try:
        until(world.fake.blocks)
        seen = ""
        for process in psutil.Process().children(recursive=True):
            seen += " ".join(process.cmdline()) + "\n"
    finally:
        world.proxy.rate = None
        job.cancel()
    assert job.wait() == "cancelled"
    assert str(job.folder) in seen
    assert "planted" not in seen
    assert "eyJ" not in seen
    assert "sig=" not in seen
