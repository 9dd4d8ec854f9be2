"""Python and the packages, against the set known to work together. By metadata: nothing is imported."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from core.check.types import FAIL, OK, WARN, Check, Subject
from core.errors import MachineError
from core.language import told
from core.trackers import refuse_missing

OURS = "olivepress"
OLDEST_PYTHON = (3, 11)
TRIED_PYTHON = ((3, 11), (3, 12))
STAND_INS = {
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime-directml"),
    "onnxruntime-genai": ("onnxruntime-genai-cuda", "onnxruntime-genai-directml"),
}
"""Packages that hold the same module for other hardware, and so serve as well."""

BREAKS: tuple[tuple[str, str, str, str], ...] = (("olive-ai", "==0.13.0", "transformers", ">=5.24"),)
"""Pairs that install together and do not work together: a, its versions, b, its versions."""

FIX = told("Install the versions that work together: pip install -c constraints.txt olivepress")


def python(subject: Subject) -> Iterator[Check]:
    """The interpreter."""
    found = told(
        "Python {python_version} on {system} {machine}",
        python_version=platform.python_version(),
        system=platform.system(),
        machine=platform.machine(),
    )
    if tuple(sys.version_info) < OLDEST_PYTHON:
        yield Check(told("python"), FAIL, found, told("Use Python 3.11 or newer."))
    elif sys.version_info[:2] not in TRIED_PYTHON:
        yield Check(
            told("python"),
            WARN,
            told("{found}: not tried with these packages", found=found),
            told("Python 3.11 and 3.12 were tried."),
        )
    else:
        yield Check(told("python"), OK, found)


def packages(subject: Subject) -> Iterator[Check]:
    """Everything that OlivePress needs, directly or through others, is there in a fitting version."""
    problems = list(find_conflicts(OURS, installed))
    if not problems:
        names = ("olive-ai", "torch", "transformers", "peft", "onnxruntime-genai", "textual")
        shown = ", ".join(f"{name} {dist.version}" for name in names if (dist := installed(name)))
        yield Check(told("packages"), OK, shown)
    for problem in problems:
        yield Check(told("packages"), FAIL, problem, FIX)


def tracker(subject: Subject) -> Iterator[Check]:
    """The experiment tracker, where the recipe names one."""
    name = subject.recipe.finetune.track
    if not name:
        return
    try:
        refuse_missing(name)
    except MachineError as error:
        yield Check.of(told("tracker"), error)
    else:
        yield Check(told("tracker"), OK, told("{name} gets the curves of a finetune", name=name))


def installed(name: str) -> Distribution | None:
    """The installed distribution of that name, or one that stands in for it."""
    for candidate in (name, *STAND_INS.get(canonicalize_name(name), ())):
        try:
            return distribution(candidate)
        except PackageNotFoundError:
            continue
    return None


def find_conflicts(root: str, find: Callable[[str], Distribution | None]) -> Iterator[str]:
    """Requirements below ``root`` that no installed package meets, each told as a pair, once.

    Args:
        find: gives the :class:`~importlib.metadata.Distribution` of a name, or None.
    """
    waiting, seen, noted = [root], {canonicalize_name(root)}, set()
    versions: dict[str, str] = {}
    while waiting:
        name = waiting.pop()
        dist = find(name)
        if dist is None:
            if name == root:
                return  # run from a checkout that was never installed: nothing to compare with
            continue
        versions[canonicalize_name(name)] = dist.version
        for requirement in _requirements(dist.requires or ()):
            needed = canonicalize_name(requirement.name)
            other = find(requirement.name)
            if other is None:
                wanted = f"{requirement.name}{requirement.specifier}"
                problem: str = told(
                    "{name} {version} needs {wanted}, which is missing",
                    name=dist.name,
                    version=dist.version,
                    wanted=wanted,
                )
            elif not requirement.specifier.contains(other.version, prereleases=True):
                problem = told(
                    "{name} {version} needs {other}{specifier}, and {other_version} is installed",
                    name=dist.name,
                    version=dist.version,
                    other=requirement.name,
                    specifier=requirement.specifier,
                    other_version=other.version,
                )
            else:
                problem = ""
            if problem and problem not in noted:
                noted.add(problem)
                yield problem
            if needed not in seen:
                seen.add(needed)
                waiting.append(requirement.name)
    yield from _known_breaks(versions)


def _known_breaks(versions: dict[str, str]) -> Iterator[str]:
    for a, a_range, b, b_range in BREAKS:
        pair = [(name, Requirement(f"{name}{spec}").specifier) for name, spec in ((a, a_range), (b, b_range))]
        if all(name in versions and spec.contains(versions[name], prereleases=True) for name, spec in pair):
            yield told(
                "{a} {a_version} does not work with {b} {b_version}",
                a=a,
                a_version=versions[a],
                b=b,
                b_version=versions[b],
            )


def _requirements(lines: Iterable[str]) -> Iterator[Requirement]:
    """The requirements that hold here, without extras."""
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement
