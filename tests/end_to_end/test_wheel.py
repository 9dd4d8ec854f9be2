"""The wheel, away from a checkout: the import, the bundled data, a stage in its own process, the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from core.version import __version__
from tests.end_to_end.labs import ROOT

SCRIPT = """
import json, sys
from pathlib import Path

from core import Lab
import core
from core.resources import data_dir, rehearsal_model, sample_data

lab = Lab.create("my-lab", model=sys.argv[1], settings={"quantize.algorithm": "rtn", "quantize.group_size": 32})
events = []
result = lab.run("quantize", on_event=events.append)
print(json.dumps({
    "core": core.__file__,
    "data": str(data_dir()),
    "rows": len(sample_data().read_text(encoding="utf-8").splitlines()),
    "rehearsal": sorted(path.name for path in rehearsal_model().iterdir()),
    "numbers": result.numbers,
    "states": [event["state"] for event in events if event["type"] == "state"],
    "heavy": sorted({"torch", "transformers", "olive", "onnxruntime"} & set(sys.modules)),
}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert built.returncode == 0, built.stderr
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel lies, as pip puts it there."""
    target = tmp_path_factory.mktemp("installed")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--no-index", "--no-compile", "--target", str(target), str(wheel)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return target


def outside(installed: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the installed packages before all others, where no checkout can be seen."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env={**env, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_it_carries_what_it_needs_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
    tops = {name.split("/")[0] for name in names}
    assert tops == {"core", "tui", f"olivepress-{__version__}.dist-info"}
    assert "core/_data/data_sample_travel.jsonl" in names
    assert "core/_data/rehearsal_model/model.safetensors" in names
    assert "core/_data/rehearsal_model/tokenizer.json" in names
    styles = {str(path.relative_to(ROOT)) for path in (ROOT / "tui").rglob("*.tcss")}
    assert styles
    assert styles <= set(names)
    assert not [name for name in names if "__pycache__" in name or "/tests/" in name]
    assert sum(info.file_size for info in zipfile.ZipFile(wheel).infolist()) < 30 << 20


@pytest.mark.slow
def test_a_script_outside_the_checkout_runs_a_stage(
    installed: Path, tiny_model: Path, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    ran = outside(installed, tmp_path, str(script), str(tiny_model))
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert Path(told["core"]).is_relative_to(installed)
    assert Path(told["data"]).is_relative_to(installed)
    assert told["rows"] >= 300
    assert {"model.safetensors", "tokenizer.json", "config.json"} <= set(told["rehearsal"])
    assert told["states"] == ["queued", "running", "succeeded"]
    assert told["numbers"]["bytes_after"] < told["numbers"]["bytes_before"]
    assert told["heavy"] == [], "what is heavy belongs into the job's process"
    assert (tmp_path / "my-lab/models/quantized/config.json").is_file()


def test_the_command_knows_its_version(installed: Path, tmp_path: Path) -> None:
    command = installed / "bin/olivepress"
    assert command.is_file()
    for words in ([str(command), "--version"], ["-m", "core.cli", "--version"]):
        ran = outside(installed, tmp_path, *words)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.strip() == f"olivepress {__version__}"
