"""Commands in a process of their own, as the wizard runs them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from core.errors import RequestError
from core.lab import Lab
from tui.child import Commands


async def test_the_last_object_is_the_result(tmp_path: Path) -> None:
    Lab.create(tmp_path / "lab", settings={"finetune.steps": 3})
    heard: list[dict[str, Any]] = []
    async with Commands() as commands:
        last = await commands.run("data", str(tmp_path / "lab"), on_line=heard.append)
    assert heard[-1] == last
    assert last["rows"] > 0


async def test_an_error_keeps_its_code() -> None:
    async with Commands() as commands:
        with pytest.raises(RequestError) as caught:
            await commands.run("status", "/nowhere")
        assert caught.value.code == "lab.missing"
        with pytest.raises(RequestError) as caught:
            await commands.run("status", "--nonsense")
        assert caught.value.code == "usage"


async def test_cancelling_is_obeyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that waits for an answer that never comes: a sign-in whose host is a server that says nothing."""
    began = asyncio.Event()

    lines: list[asyncio.StreamWriter] = []

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append(writer)
        began.set()
        await reader.read()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    monkeypatch.setenv("HF_ENDPOINT", f"http://{host}:{port}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    lab = Lab.create(tmp_path / "lab", model="nobody/nothing")
    async with Commands() as commands:
        task = asyncio.ensure_future(commands.run("check", str(lab.root)))
        await asyncio.wait_for(began.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await commands.run("status", str(lab.root)))["jobs"] == [], "the next command is run"
    server.close()
    for line in lines:
        line.close()
        await line.wait_closed()
