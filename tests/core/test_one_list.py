"""A stage more is one entry and one module; so is an algorithm. Everything else reads the lists."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.algorithms import ALGORITHMS
from core.check import probes, run_checks
from core.check.needs import Machine, stage_needs
from core.lab import Lab
from core.model.auto import resolve
from core.model.folder import config_facts
from core.quantize.stage import passes
from core.recipe import OPTIONS, Recipe
from core.stages import STAGES, default_stages, made_in
from tests.added.entries import ALGORITHM, STAGE

ROOT = Path(__file__).resolve().parents[2]
CONFIG = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "model_type": "llama",
}


def olivepress(*words: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process that has the stage and the algorithm."""
    env = {**os.environ, "OLIVEPRESS_PLUGIN": "tests.added.plugin", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "core.cli", *words], capture_output=True, text=True, check=False, env=env
    )


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has them as well."""
    monkeypatch.setitem(STAGES, "shrink", STAGE)
    monkeypatch.setitem(ALGORITHMS, "half", ALGORITHM)


@pytest.mark.usefixtures("added")
def test_a_stage_more_is_run_shown_reported_and_checked(tmp_path: Path) -> None:
    lab = Lab.create(tmp_path / "lab", settings={"chat.max_new_tokens": 7})
    done = olivepress("run", str(lab.root), "shrink", "--no-check")
    assert done.stdout == "shrink: done\n  Words written: 7\n", done.stderr
    again = olivepress("run", str(lab.root), "shrink", "--no-check")
    assert again.stdout.startswith("shrink: unchanged"), again.stderr
    jobs = json.loads(olivepress("status", str(lab.root), "--json").stdout)["jobs"]
    assert [(job["id"], job["state"]) for job in jobs] == [
        ("shrink-001", "succeeded"),
        ("shrink-002", "succeeded"),
    ]
    assert "shrink-002" in olivepress("logs", str(lab.root), "shrink").stdout + str(lab.job("shrink").id)
    report = (lab.root / "report.md").read_text()
    assert "## Shrunk model\n\n`models/shrunk`" in report
    assert "| Words written | 7 |" in report
    manifest = lab.manifest("shrink")
    assert manifest is not None
    assert manifest["result"] == {"words": 7}
    assert made_in(lab.folder) == {"shrink"}
    assert "shrink" in default_stages()
    assert "shrink" in olivepress("run", "--help").stdout
    blocking = {probe.name for probe in probes() if "shrink" in probe.stages}
    assert {"python", "packages", "recipe", "folder"} <= blocking
    assert run_checks(lab.root, ["shrink"])


@pytest.mark.usefixtures("added")
def test_an_algorithm_more_is_a_choice_a_pass_and_an_estimate(tmp_path: Path) -> None:
    declared = OPTIONS["quantize"]["algorithm"]
    assert "half" in declared.expected
    assert declared.words("half") == "Half - for a test"
    made = olivepress("new", str(tmp_path / "lab"), "--set", "quantize.algorithm=half")
    assert made.returncode == 0, made.stderr
    assert 'algorithm = "half"' in (tmp_path / "lab/lab.toml").read_text()
    recipe = Recipe().with_values({"quantize.algorithm": "half", "quantize.group_size": 32})
    settled = resolve(recipe, None, None).recipe
    assert passes(settled, Path("rows.json"), Path("model"))["quantize"]["type"] == "rtn"
    needs = stage_needs(config_facts(CONFIG), settled, Machine(gpu_free=0, cores=2))
    plain = stage_needs(
        config_facts(CONFIG),
        resolve(recipe.with_values({"quantize.algorithm": "rtn"}), None, None).recipe,
        Machine(0, 2),
    )
    assert needs["quantize"].seconds > plain["quantize"].seconds, "its search takes time"
