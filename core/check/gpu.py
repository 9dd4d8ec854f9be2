"""The GPU, its driver, who holds its memory, and whether the installed builds can use it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from core.check.types import FAIL, OK, SKIP, WARN, Check, Subject
from core.errors import Use
from core.finetune.gpus import cpu_ranks
from core.formats import counted, human_bytes
from core.hardware import load_nvml, package_version, read_gpus, usable_gpus
from core.options import AUTO
from core.resources import REHEARSAL
from core.text import first_line

DRIVER_MARKS = ("/proc/driver/nvidia/version", "/dev/nvidia0", "/dev/nvidiactl")
OLDEST_CUDA = 12
OLDEST_CAPABILITY = (7, 0)


def gpu(subject: Subject) -> Iterator[Check]:
    """The NVIDIA GPUs: name, driver, CUDA version, memory, compute capability, MIG."""
    nvml = load_nvml()
    try:
        yield from _gpus(nvml, subject)
    except Exception as error:
        if nvml is None or not isinstance(error, nvml.NVMLError):
            raise
        hint = "Look at nvidia-smi and the system's log. After an update of the driver the machine must be restarted."
        yield Check("gpu driver", FAIL, f"It stopped answering: {first_line(error)}", hint)


def _gpus(nvml: Any | None, subject: Subject) -> Iterator[Check]:
    count = 0 if nvml is None else nvml.nvmlDeviceGetCount()
    if nvml is None or count == 0:
        yield _no_nvml(subject) if nvml is None else _without(subject, "The NVIDIA driver sees no GPU.")
        if subject.recipe.finetune.gpus not in (1, AUTO):
            yield _count(0, cpu_ranks(), subject)
        return
    driver, cuda = _text(nvml.nvmlSystemGetDriverVersion()), nvml.nvmlSystemGetCudaDriverVersion_v2()
    about = f"driver {driver}, CUDA {cuda // 1000}.{cuda % 1000 // 10}"
    if cuda // 1000 < OLDEST_CUDA:
        yield Check(
            "gpu driver", FAIL, f"{about}: too old", f"Install a driver for CUDA {OLDEST_CUDA} or newer."
        )
    else:
        yield Check("gpu driver", OK, about)
    for index in range(count):
        name = "gpu" if count == 1 else f"gpu {index}"
        try:
            yield _one(nvml, index, name)
        except nvml.NVMLError as error:
            yield Check(
                name, WARN, f"It does not answer: {error}", "Look at nvidia-smi; the GPU may need a restart."
            )
    if count > 1:
        yield _count(count, len(usable_gpus(read_gpus(nvml))), subject)
    elif subject.recipe.finetune.gpus not in (1, AUTO):
        yield _count(1, 1, subject)


def _count(count: int, usable: int, subject: Subject) -> Check:
    """How many there are, and how many a finetune uses."""
    asked = subject.recipe.finetune.gpus
    found = counted(count, "GPU") if count else "No GPU"
    if usable < count:
        found += f", {usable} by CUDA_VISIBLE_DEVICES"
    if asked == AUTO:
        return Check("gpu count", OK, f"{found}; finetune uses as many as pay")
    if asked > max(1, usable):
        state = FAIL if "finetune" in subject.stages else WARN
        hint = (
            "Set ",
            Use("finetune.gpus", max(1, usable)),
            ", or ",
            Use("finetune.gpus", AUTO),
            " for as many as pay.",
        )
        return Check("gpu count", state, f"{found}; finetune.gpus is {asked}", hint, code="gpu.count")
    more = ' (finetune.gpus = "auto": as many as pay)' if asked == 1 else ""
    return Check("gpu count", OK, f"{found}; finetune uses {asked}{more}")


def _one(nvml: Any, index: int, name: str) -> Check:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    found = (
        f"{_text(nvml.nvmlDeviceGetName(handle))}, {human_bytes(memory.free)} free of {human_bytes(memory.total)}, "
        f"compute capability {major}.{minor}"
    )
    with suppress(nvml.NVMLError):
        mode, _ = nvml.nvmlDeviceGetMigMode(handle)
        if mode:
            return Check(
                name,
                WARN,
                f"{found}; split by MIG",
                "The memory free in your slice may be less; torch uses the slice that CUDA_VISIBLE_DEVICES names.",
            )
    if (major, minor) < OLDEST_CAPABILITY:
        return Check(
            name, WARN, f"{found}: older than today's torch supports", "Use a GPU of capability 7.0 or newer."
        )
    holders = _holders(nvml, handle)
    if holders and memory.free < memory.total / 2:
        return Check(
            name, WARN, f"{found}; held by {holders}", "Stop those programs if the lab needs the memory."
        )
    return Check(name, OK, found + (f"; also used by {holders}" if holders else ""))


def _holders(nvml: Any, handle: Any) -> str:
    import psutil

    names = []
    with suppress(nvml.NVMLError):
        for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle):
            used = human_bytes(process.usedGpuMemory) if process.usedGpuMemory else "unknown size"
            try:
                names.append(f"{psutil.Process(process.pid).name()} (pid {process.pid}, {used})")
            except psutil.Error:
                names.append(f"pid {process.pid} ({used})")
    return ", ".join(names[:4])


def _no_nvml(subject: Subject) -> Check:
    if any(Path(mark).exists() for mark in DRIVER_MARKS):
        return Check(
            "gpu",
            WARN,
            "The NVIDIA driver is loaded, but its library (libnvidia-ml.so) cannot be.",
            "Install the driver's libraries, or start the container with GPU access (--gpus all).",
        )
    return _without(subject, "No NVIDIA GPU.")


def _without(subject: Subject, found: str) -> Check:
    if subject.recipe.optimize.device == "gpu":
        return Check("gpu", WARN, f"{found} optimize.device is gpu: the model is built, but not tried here.",
                     'Set optimize.device = "cpu" to chat on this machine.')  # fmt: skip
    if subject.recipe.model.source == REHEARSAL:
        return Check("gpu", OK, f"{found} The rehearsal model needs none.")
    return Check("gpu", WARN, f"{found} The stages run on the CPU: right, and slow for a large model.",
                 "See the time checks below; or use a machine with a GPU.")  # fmt: skip


def builds(subject: Subject) -> Iterator[Check]:
    """Whether torch and onnxruntime-genai are CUDA or CPU builds, and whether that fits the machine."""
    has_gpu = (nvml := load_nvml()) is not None and bool(read_gpus(nvml))
    cuda = torch_cuda()
    if cuda is None:
        yield Check("torch build", SKIP, "torch is not installed.")
    elif has_gpu and not cuda:
        yield Check("torch build", WARN, "A CPU build of torch on a machine with a GPU: the GPU lies idle.",
                    "pip install --force-reinstall torch==2.13.0 (without +cpu)")  # fmt: skip
    else:
        yield Check("torch build", OK, f"torch for {'CUDA ' + cuda if cuda else 'CPU'}")
    both = [(a, b) for a, b in (("onnxruntime", "onnxruntime-gpu"), ("onnxruntime-genai", "onnxruntime-genai-cuda"))
            if package_version(a) and package_version(b)]  # fmt: skip
    for a, b in both:
        yield Check("onnxruntime build", WARN, f"{a} and {b} are both installed and overwrite each other's files.",
                    f"make cuda; or pip uninstall -y {a} {b}, then pip install {b} again")  # fmt: skip
    if both:
        return
    name = "onnxruntime-genai-cuda" if package_version("onnxruntime-genai-cuda") else "onnxruntime-genai"
    if subject.recipe.optimize.provider == "CUDAExecutionProvider" and name == "onnxruntime-genai":
        yield Check("onnxruntime build", WARN, "The recipe builds for CUDA; onnxruntime-genai here is the CPU build.",
                    "To chat on the GPU: make cuda (without a checkout: see Installing in the README)")  # fmt: skip
    elif package_version(name):
        yield Check("onnxruntime build", OK, f"{name} {package_version(name)}")


def torch_cuda() -> str | None:
    """The CUDA version that the installed torch was built for, ``""`` for a CPU build, None without torch.

    Read from torch's own ``version.py``: importing torch takes seconds.
    """
    spec = find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    try:
        text = (Path(next(iter(spec.submodule_search_locations))) / "version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(r"^cuda\b[^=]*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    return match.group(1) if match else ""


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
