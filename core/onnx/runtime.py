"""Importing onnxruntime-genai so that its CUDA build finds CUDA. Only for processes that run a model."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any


def import_genai() -> Any:
    """The module ``onnxruntime_genai``.

    Its CUDA build is linked to CUDA's libraries by name. Where pip installed those (``nvidia-*``), the
    linker does not look; onnxruntime knows the places, and what is loaded once is found from then on.
    """
    try:
        version("onnxruntime-gpu")
    except PackageNotFoundError:
        pass
    else:
        import onnxruntime

        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
    import onnxruntime_genai

    return onnxruntime_genai
