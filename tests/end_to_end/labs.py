"""What the end-to-end tests share: the command line in a process of its own, events by contract, waiting."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
STATES = {"queued", "running", "cancelling", "succeeded", "failed", "cancelled", "crashed"}
LEVELS = {"debug", "info", "warning", "error"}
ERROR_KEYS = {"title", "detail", "hint"}

TINY = {
    "quantize.algorithm": "rtn",
    "quantize.group_size": 32,
    "finetune.rank": 4,
    "finetune.batch_size": 4,
    "data.max_seq_len": 128,
}
"""A recipe for a model of tests.tiny_models, as cheap as it gets."""


def command(*words: str) -> list[str]:
    """The command line as a program and its arguments."""
    return [sys.executable, "-m", "core.cli", *words]


def cli(
    *words: str,
    cwd: Path = ROOT,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    timeout: float = 300,
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end; with no terminal anywhere."""
    given: dict[str, Any] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    return subprocess.run(
        command(*words),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        **given,
    )


def lines_of(text: str) -> list[dict[str, Any]]:
    """Standard output under ``--json``: JSON Lines and nothing else."""
    return [json.loads(line) for line in text.splitlines()]


def check_event(event: Mapping[str, Any], job: str) -> None:
    """One event as the contract has it."""
    assert event["v"] == 1
    assert event["job"] == job
    assert event["t"].endswith("Z")
    assert datetime.fromisoformat(event["t"]).utcoffset() is not None
    kind = event["type"]
    if kind == "state":
        assert event["state"] in STATES
        assert ("error" in event) == (event["state"] in ("failed", "crashed", "cancelled"))
        if "error" in event:
            assert set(event["error"]) >= ERROR_KEYS
    elif kind == "progress":
        assert event["phase"]
        assert event["done"] >= 0
        assert event["total"] is None or event["done"] <= event["total"]
        assert event["eta_s"] is None or event["eta_s"] >= 0
    elif kind == "metric":
        assert event["name"]
        assert event["step"] is None or isinstance(event["step"], int)
        assert event["value"] is None or isinstance(event["value"], int | float)
    elif kind == "artifact":
        assert Path(event["path"]).exists()
        assert event["bytes"] > 0
        assert event["what"]
    else:
        assert kind == "log"
        assert event["level"] in LEVELS
        assert isinstance(event["text"], str)


def check_events(events: Iterable[Mapping[str, Any]], job: str, last: str) -> None:
    """A whole run's events: each right, in time's order, from queued to the final state and nothing after it."""
    events = list(events)
    for event in events:
        check_event(event, job)
    # Two processes write, each with its own clock reading: the supervisor's may be a moment behind.
    times = [datetime.fromisoformat(event["t"]).timestamp() for event in events]
    assert all(late >= early - 1 for early, late in itertools.pairwise(times))
    states = [event["state"] for event in events if event["type"] == "state"]
    assert states[:2] == ["queued", "running"]
    assert states.count(last) == 1
    assert events[-1]["type"] == "state"
    assert events[-1]["state"] == last


def losses_of(events: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """The loss of each step."""
    return {e["step"]: e["value"] for e in events if e["type"] == "metric" and e["name"] == "loss"}


def half_made(root: Path) -> list[Path]:
    """What a stage left that is not whole: work folders, temporary files, folders set aside."""
    models = root / "models"
    return [p for p in models.rglob(".*") if models.exists()] + list(root.glob(".lab.toml.*"))
