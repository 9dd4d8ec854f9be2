"""Two wizards and a script on one lab: all see the same, and none is in another's way."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from core import Lab, RequestError
from tests.tui.ptys import Terminal


def test_two_wizards_and_a_script_on_one_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLIVEPRESS_PLUGIN", "tests.fake_stages.plugin")
    lab = Lab.create(tmp_path / "lab", settings={"chat.system": "hang"})
    command = [sys.executable, "-m", "core.cli", str(lab.root)]
    config = {"XDG_CONFIG_HOME": str(tmp_path)}
    with Terminal(command, tmp_path, config) as one, Terminal(command, tmp_path, config) as two:
        for each in (one, two):
            each.until("F4  Next", 60)
            each.send("3")
            each.until("▸3", 60)
        job = lab.start("quantize")  # the script
        for each in (one, two):
            each.until("working", 60)
        with pytest.raises(RequestError) as caught:
            lab.start("finetune")
        assert caught.value.code == "job.running"
        lab.set({"chat.system": "ok"})
        lab.job("quantize").cancel()
        assert job.wait(timeout=60) == "cancelled"
        for each in (one, two):
            each.until("Stopped", 60)
        assert not lab.run("quantize").reused
        for each in (one, two):
            each.until("Done", 60)
            each.send("4")
            each.until("▸4", 60)
