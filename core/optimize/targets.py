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
from core.language import told
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
            told("{precision} is no precision for {provider}.", precision=precision, provider=provider),
            told(
                "optimize: device = {device}, provider = {provider}, precision = {precision}.",
                device=device,
                provider=provider,
                precision=precision,
            ),
            (told("Set "), *either(Use("optimize.precision", each) for each in fitting), ".")
            if fitting
            else told("Choose another provider."),
            code="optimize.precision",
        )
    target = _judge(device, provider, precision)
    if not target.can_build:
        raise MachineError(
            told("A model for {provider} cannot be built here.", provider=provider),
            target.why,
            target.fix,
            code="optimize.target",
        )
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
            yield (
                told("The package {package} is missing.", package=package),
                told("pip install {package}", package=package),
            )
    why, fix = PROVIDERS[provider].no_builder
    if why:
        yield why, fix


def _obstacles_to_running(provider: str) -> Iterator[tuple[str, str]]:
    facts, untried = PROVIDERS[provider], told("It can be built but not chatted with here")
    if facts.system and sys.platform != facts.system:
        yield (
            told("{untried}: DirectML is a part of Windows.", untried=untried),
            told("Chat with it on Windows."),
        )
    if not any(map(package_version, facts.runtime)):
        yield (
            told("{untried}: {runtime} is missing.", untried=untried, runtime=facts.runtime[0]),
            told("pip install {runtime}", runtime=facts.runtime[0]),
        )
    if provider == "CUDAExecutionProvider":
        nvml = load_nvml()
        if nvml is None or not read_gpus(nvml):
            yield (
                told("{untried}: there is no NVIDIA GPU.", untried=untried),
                told("Chat on a machine with one."),
            )
    if provider == "WebGpuExecutionProvider" and sys.platform == "linux" and not any(_CARDS.glob("renderD*")):
        yield (
            told("{untried}: there is no graphics card.", untried=untried),
            told("Chat on a machine with one."),
        )
