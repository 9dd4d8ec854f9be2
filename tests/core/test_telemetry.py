"""Nothing is sent, or kept to be sent, by the packages under us."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.jobs.start import job_environment
from core.telemetry import OFF

UNDONE = {"CI", "ORT_RUNNING_UNIT_TESTS", *OFF}


def kept(code: str, home: Path, **more: str) -> list[str]:
    """The files that a Python leaves in an empty home when nobody has switched telemetry off for it."""
    environment = {name: value for name, value in os.environ.items() if name not in UNDONE}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), **more}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)
    return sorted(path.name for path in home.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "code",
    [
        "from core.optimize.genai import import_runtime; import_runtime()",
        "from core.optimize.genai import import_genai; import_genai(); import onnxruntime",
        "from core.olive.run import import_olive; import_olive(); import onnxruntime",
        "import core.chat.engine, onnxruntime",
        "from core.olive.run import import_olive; import_olive();"
        "from olive.telemetry.telemetry import Telemetry; Telemetry()",
    ],
)
def test_no_id_of_this_machine_is_kept(code: str, tmp_path: Path) -> None:
    assert kept(code, tmp_path) == []


def test_a_jobs_processes_leave_none(tmp_path: Path) -> None:
    told = {name: value for name, value in job_environment().items() if name in OFF}
    assert kept("import onnxruntime", tmp_path, **told) == []
