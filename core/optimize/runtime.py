"""Importing ONNX Runtime and its GenAI: without telemetry, and so that CUDA builds find CUDA.

Only for processes that run a model.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from core.telemetry import switch_off


def import_runtime() -> Any:
    """The module ``onnxruntime``."""
    switch_off()
    import onnxruntime

    return onnxruntime


def import_genai() -> Any:
    """The module ``onnxruntime_genai``.

    Its CUDA build is linked to CUDA's libraries by name. Where pip installed those (``nvidia-*``), the
    linker does not look; onnxruntime knows the places, and what is loaded once is found from then on.
    """
    switch_off()
    try:
        version("onnxruntime-gpu")
    except PackageNotFoundError:
        pass
    else:
        runtime = import_runtime()
        if hasattr(runtime, "preload_dlls"):
            runtime.preload_dlls()
    import onnxruntime_genai

    return onnxruntime_genai
