"""core knows no Textual, and neither core nor the UI process loads anything heavy."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest

import core

HEAVY = {
    "torch",
    "transformers",
    "olive",
    "onnxruntime",
    "onnxruntime_genai",
    "datasets",
    "azure",
    "onnx",
    "peft",
    "pandas",
    "pyarrow",
    "numpy",
    "huggingface_hub",
}


def loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import core; core.Lab, core.Job, core.Recipe",
        "import core.cli.parser as p; p.build_parser()",
        "import core.chat.session",
        "import core.serve.server",
        "import core.check",
        "import core.data",
        "import tui.app",
    ],
)
def test_light(statement: str) -> None:
    assert not loaded_by(statement) & HEAVY


def test_the_first_screen_loads_nothing_of_what_only_jobs_need() -> None:
    code = "import sys, tui.main, tui.app, tui.output, tui.screens.check\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    late = {"core.jobs", "core.recipe", "core.lab", "core.files", "core.from_the_right", "core.hardware"}
    assert not set(done.stdout.split()) & (late | {"tomllib", "hashlib", "ctypes"})


def test_core_never_loads_textual() -> None:
    skip = (
        "core.quantize.",
        "core.finetune.",
        "core.optimize.",
        "core.olive",
        "core.cli.__main__",
        "core.jobs.supervise",
        "core._data",
    )
    names = [m.name for m in pkgutil.walk_packages(core.__path__, "core.") if not m.name.startswith(skip)]
    loaded = loaded_by("import " + ", ".join(names))
    assert not loaded & {"textual", "tui"}


def test_what_jobs_load_has_none_of_olives_metrics() -> None:
    """They bring along matplotlib and torchvision where those are installed, which takes seconds."""
    loaded = loaded_by("from core.jobs.loaded import load; load()")
    assert {"olive", "torch"} <= loaded
    assert not loaded & {"torchmetrics", "torchvision", "matplotlib"}
