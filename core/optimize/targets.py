"""What this machine can build ONNX models for, and what it can run them on.

Light: packages are looked up by their metadata, nothing of theirs is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

from core.errors import MachineError, RequestError, Use, either
from core.hardware import load_nvml, package_version, read_gpus

PRECISIONS: dict[tuple[str, str], tuple[str, ...]] = {
    ("cpu", "CPUExecutionProvider"): ("int4", "int8", "fp32"),
    ("gpu", "CUDAExecutionProvider"): ("int4", "int8", "fp16", "bf16"),
    ("gpu", "DmlExecutionProvider"): ("int4", "int8", "fp16"),
    ("gpu", "WebGpuExecutionProvider"): ("int4", "int8", "fp16"),
    ("npu", "QNNExecutionProvider"): ("int4", "int8", "fp16"),
}
"""For each device and provider, the precisions that make sense there, the usual one first."""

GENAI = {
    "CPUExecutionProvider": ("onnxruntime-genai", "onnxruntime-genai-cuda", "onnxruntime-genai-directml"),
    "CUDAExecutionProvider": ("onnxruntime-genai-cuda",),
    "DmlExecutionProvider": ("onnxruntime-genai-directml",),
    "WebGpuExecutionProvider": ("onnxruntime-genai-webgpu",),
    "QNNExecutionProvider": ("onnxruntime-genai-qnn",),
}
"""Packages whose build of onnxruntime-genai runs a provider."""


@dataclass(frozen=True)
class Target:
    """One combination of device, provider and precision.

    Attributes:
        can_build: a model for it can be made here.
        can_run: it can be chatted with here, and so verified.
        why: what keeps it from being built or, if it can be built, from being run; empty if nothing does.
        fix: what to do about that.
    """

    device: str
    provider: str
    precision: str
    can_build: bool
    can_run: bool
    why: str = ""
    fix: str = ""


def list_targets() -> list[Target]:
    """Every combination, the possible and the impossible, with the reasons."""
    return [
        _judge(device, provider, precision)
        for (device, provider), precisions in PRECISIONS.items()
        for precision in precisions
    ]


def require_target(device: str, provider: str, precision: str) -> Target:
    """The target of a recipe, which can be built here.

    Raises:
        RequestError: there is no such combination anywhere.
        MachineError: this machine cannot build it.
    """
    if precision not in PRECISIONS.get((device, provider), ()):
        fitting = PRECISIONS.get((device, provider), ())
        raise RequestError(
            f"{precision} is no precision for {provider}.",
            f"optimize: device = {device}, provider = {provider}, precision = {precision}.",
            ("Set ", *either(Use("optimize.precision", each) for each in fitting), ".")
            if fitting
            else "Choose another provider.",
        )
    target = _judge(device, provider, precision)
    if not target.can_build:
        raise MachineError(f"A model for {provider} cannot be built here.", target.why, target.fix)
    return target


def _judge(device: str, provider: str, precision: str) -> Target:
    for why, fix in _obstacles_to_building(provider):
        return Target(device, provider, precision, False, False, why, fix)
    for why, fix in _obstacles_to_running(provider):
        return Target(device, provider, precision, True, False, why, fix)
    return Target(device, provider, precision, True, True)


def _obstacles_to_building(provider: str) -> Iterator[tuple[str, str]]:
    for module, package in (
        ("olive", "olive-ai"),
        ("onnxruntime_genai", "onnxruntime-genai"),
        ("torch", "torch"),
    ):
        if find_spec(module) is None:
            yield f"The package {package} is missing.", f"pip install {package}"
    if provider == "QNNExecutionProvider":
        yield (
            "The model builder makes no graphs for the Qualcomm NPU, which needs fixed shapes and its compiler.",
            "Build for the CPU of that machine (optimize.device = cpu), or convert with Qualcomm's AI Hub.",
        )
    if provider == "DmlExecutionProvider" and sys.platform != "win32":
        yield "DirectML is a part of Windows.", "Build it on Windows, or set optimize.provider to another."


def _obstacles_to_running(provider: str) -> Iterator[tuple[str, str]]:
    packages = GENAI[provider]
    if not any(map(package_version, packages)):
        yield (
            f"It can be built but not chatted with here: {packages[0]} is missing.",
            f"pip install {packages[0]}",
        )
    if provider == "CUDAExecutionProvider":
        nvml = load_nvml()
        if nvml is None or not read_gpus(nvml):
            yield (
                "It can be built but not chatted with here: there is no NVIDIA GPU.",
                "Chat on a machine with one.",
            )
