"""What this machine can build ONNX models for, and what it can run them on.

Light: packages are looked up by their metadata, nothing of theirs is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from core.errors import MachineError, RequestError, Use, either
from core.hardware import load_nvml, package_version, read_gpus
from core.providers import PROVIDERS, providers_for

_CARDS = Path("/dev/dri")


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
        _judge(device, name, precision)
        for name, provider in PROVIDERS.items()
        for device in provider.devices
        for precision in provider.precisions
    ]


def require_target(device: str, provider: str, precision: str) -> Target:
    """The target of a recipe, which can be built here.

    Raises:
        RequestError: there is no such combination anywhere.
        MachineError: this machine cannot build it.
    """
    fitting = PROVIDERS[provider].precisions if provider in providers_for(device) else ()
    if precision not in fitting:
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
    why, fix = PROVIDERS[provider].no_builder
    if why:
        yield why, fix


def _obstacles_to_running(provider: str) -> Iterator[tuple[str, str]]:
    facts, untried = PROVIDERS[provider], "It can be built but not chatted with here"
    if facts.system and sys.platform != facts.system:
        yield f"{untried}: DirectML is a part of Windows.", "Chat with it on Windows."
    if not any(map(package_version, facts.runtime)):
        yield f"{untried}: {facts.runtime[0]} is missing.", f"pip install {facts.runtime[0]}"
    if provider == "CUDAExecutionProvider":
        nvml = load_nvml()
        if nvml is None or not read_gpus(nvml):
            yield f"{untried}: there is no NVIDIA GPU.", "Chat on a machine with one."
    if provider == "WebGpuExecutionProvider" and sys.platform == "linux" and not any(_CARDS.glob("renderD*")):
        yield f"{untried}: there is no graphics card.", "Chat on a machine with one."
