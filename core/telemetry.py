"""Telemetry of the packages that OlivePress runs: off, before any of them is loaded.

ONNX Runtime's own builds send it since 1.29 (https://github.com/microsoft/onnxruntime/pull/27379), among
other things the names of model files, and decide at their import, once for the process.
"""

from __future__ import annotations

import os

OFF = {
    "OLIVE_DISABLE_TELEMETRY": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
"""Environment variables by which Olive, ONNX Runtime (and its GenAI from 0.15), and the Hugging Face hub are told."""


def switch_off() -> None:
    """Tell this process's packages, and the processes that it starts. To be called before they are imported."""
    os.environ.update(OFF)
