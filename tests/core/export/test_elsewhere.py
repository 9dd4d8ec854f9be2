"""Task files for other schedulers: read by their own tools where these are there, and what they would run."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from core.cli.parser import command_parser
from core.errors import RequestError
from core.export.slurm import task_name
from core.export.write import export
from core.lab import Lab
from core.recipe import read_recipe

KNOWN = {
    "job-name", "nodes", "ntasks", "gpus-per-node", "cpus-per-task", "time", "output", "open-mode", "requeue", "signal",
}  # fmt: skip


@pytest.mark.parametrize("name", ["lab", 'it\'s a "lab" $(x)', "ünïcode"])
def test_the_batch_script_is_one_and_runs_the_lab(tmp_path: Path, name: str) -> None:
    lab = Lab.create(tmp_path / name, settings={"finetune.gpus": 2})
    out = tmp_path / "job.sh"
    export(lab, "slurm", out)
    text = out.read_text(encoding="utf-8")
    assert subprocess.run(["bash", "-n", str(out)], check=False).returncode == 0
    lines = text.splitlines()
    asked = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")]
    assert {each.split("=")[0] for each in asked} == KNOWN
    assert "gpus-per-node=2" in asked
    # sbatch reads its lines up to the first command, and no further.
    first = next(at for at, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first:])
    words = shlex.split(lines[-1])
    assert words[:4] == ["exec", sys.executable, "-P", "-m"]
    assert command_parser("run").read(words[6:]).words == ["$lab", "quantize", "finetune", "optimize"]
    told = subprocess.run(
        ["bash", "-c", "\n".join(lines[first:-2]) + '\nprintf %s "$lab"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == str(lab.root)


def test_the_task_takes_along_what_it_needs(tmp_path: Path) -> None:
    lab = Lab.create(tmp_path / "My Lab", settings={"finetune.gpus": 4})
    out = tmp_path / "task.yaml"
    export(lab, "skypilot", out)
    task = yaml.safe_load(out.read_text(encoding="utf-8"))
    assert task["name"] == "olivepress-my-lab"
    assert task["resources"]["accelerators"] == "A100:4"
    inputs = tmp_path / "task.inputs"
    assert task["file_mounts"] == {"~/olivepress/inputs": "./task.inputs"}
    recipe = read_recipe(inputs / "lab" / "lab.toml")
    assert (inputs / "lab" / recipe.data.file).is_file()
    assert recipe.upload.subscription == ""
    assert "torch==" in (inputs / "requirements.txt").read_text()
    words = shlex.split(task["run"].splitlines()[-1])
    read = command_parser("run").read(words[3:])
    assert (read.source, read.keep) == ("inputs", "kept")
    assert list(inputs.glob("olivepress-*.whl"))


def test_a_model_that_cannot_go_along_is_refused(tmp_path: Path) -> None:
    lab = Lab.create(tmp_path / "lab", model="azureml://registries/azureml/models/Phi/versions/4")
    with pytest.raises(RequestError) as caught:
        export(lab, "skypilot", tmp_path / "task.yaml")
    assert caught.value.code == "export.model"
    assert not (tmp_path / "task.yaml").exists()


@pytest.mark.parametrize(
    ("name", "made"),
    [("Lab 1", "olivepress-lab-1"), ("***", "olivepress"), ("a" * 99, "olivepress-" + "a" * 40)],
)
def test_names_are_such_as_schedulers_take(name: str, made: str) -> None:
    assert task_name(name) == made
