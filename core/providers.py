"""ONNX Runtime's execution providers: for which devices, in which precisions, built and run by what.

Light: facts alone. What of it this machine has is in :mod:`core.optimize.targets`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from core.language import told

_GENAI = ("onnxruntime-genai", "onnxruntime-genai-cuda", "onnxruntime-genai-directml")


@dataclass(frozen=True)
class Provider:
    """One execution provider.

    Attributes:
        devices: the kinds of device that it runs on.
        precisions: those that make sense there, the usual one first.
        builder: what onnxruntime-genai's model builder calls it; empty where no graph can be made for it.
        runtime: packages that bring it, each enough by itself.
        plugin: the module of a package that brings it as a library to be registered; empty where it is built in.
        key: its name in ``genai_config.json``.
        system: the only platform that has it, as :data:`sys.platform` names it; empty: any.
        no_builder: why there is no graph for it, and what to do instead.
    """

    devices: tuple[str, ...]
    precisions: tuple[str, ...]
    builder: str
    runtime: tuple[str, ...]
    plugin: str = ""
    key: str = ""
    system: str = ""
    no_builder: tuple[str, str] = ("", "")


PROVIDERS: Mapping[str, Provider] = {
    "CPUExecutionProvider": Provider(("cpu",), ("int4", "int8", "fp32"), "cpu", _GENAI),
    "CUDAExecutionProvider": Provider(
        ("gpu",), ("int4", "int8", "fp16", "bf16"), "cuda", ("onnxruntime-genai-cuda",), key="cuda"
    ),
    "DmlExecutionProvider": Provider(
        ("gpu",), ("int4", "int8", "fp16"), "dml", ("onnxruntime-genai-directml",), key="dml", system="win32"
    ),
    "WebGpuExecutionProvider": Provider(
        ("gpu",),
        ("int4", "int8", "fp16"),
        "webgpu",
        ("onnxruntime-ep-webgpu",),
        plugin="onnxruntime_ep_webgpu",
        key="webgpu",
    ),
    "NvTensorRTRTXExecutionProvider": Provider(
        ("gpu",),
        ("int4", "fp16", "bf16"),
        "",
        ("onnxruntime-ep-nv-tensorrt-rtx",),
        no_builder=(
            told(
                "The model builder's graphs for TensorRT-RTX hold 4 bits of its own rounding alone, so what the lab "
                "quantized and tuned would be rounded a second time."
            ),
            told("Build for CUDA, which runs on the same cards (optimize.provider = CUDAExecutionProvider)."),
        ),
    ),
    "OpenVINOExecutionProvider": Provider(
        ("npu", "gpu"),
        ("int4", "int8", "fp16"),
        "",
        ("onnxruntime-ep-openvino",),
        no_builder=(
            told("OpenVINO runs graphs of its own form, which Intel's tools make of float weights."),
            told(
                "Take the result to that vendor's own tools as float weights (export --to merged), and convert "
                "them with optimum-cli export openvino."
            ),
        ),
    ),
    "QNNExecutionProvider": Provider(
        ("npu",),
        ("int4", "int8", "fp16"),
        "",
        ("onnxruntime-qnn",),
        no_builder=(
            told(
                "The model builder makes no graphs for the Qualcomm NPU, which needs fixed shapes and its compiler."
            ),
            told(
                "Build for the CPU of that machine (optimize.device = cpu), or convert with Qualcomm's AI Hub."
            ),
        ),
    ),
    "VitisAIExecutionProvider": Provider(
        ("npu",),
        ("int4", "int8"),
        "",
        ("onnxruntime-vitisai",),
        no_builder=(
            told("AMD's NPU runs graphs that Quark rounded and Ryzen AI's software compiled."),
            told(
                "Take the result to that vendor's own tools as float weights (export --to merged), and quantize "
                "them with AMD Quark."
            ),
        ),
    ),
}
"""Every provider that a recipe may name, the usual one of each device first."""


def providers_for(device: str) -> tuple[str, ...]:
    """The names of those that run on a device, the usual one first."""
    return tuple(name for name, each in PROVIDERS.items() if device in each.devices)
