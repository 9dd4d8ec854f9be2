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
from core.formats import counted, human_bytes, listed
from core.hardware import load_nvml, package_version, read_gpus, usable_gpus
from core.language import told
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
        hint = told(
            "Look at nvidia-smi and the system's log. After an update of the driver the machine must "
            "be restarted."
        )
        yield Check(
            told("gpu driver"), FAIL, told("It stopped answering: {error}", error=first_line(error)), hint
        )


def _gpus(nvml: Any | None, subject: Subject) -> Iterator[Check]:
    count = 0 if nvml is None else nvml.nvmlDeviceGetCount()
    if nvml is None or count == 0:
        yield _no_nvml(subject) if nvml is None else _without(subject, told("The NVIDIA driver sees no GPU."))
        if subject.recipe.finetune.gpus not in (1, AUTO):
            yield _count(0, cpu_ranks(), subject)
        return
    driver, cuda = _text(nvml.nvmlSystemGetDriverVersion()), nvml.nvmlSystemGetCudaDriverVersion_v2()
    about = told(
        "driver {driver}, CUDA {major}.{minor}", driver=driver, major=cuda // 1000, minor=cuda % 1000 // 10
    )
    if cuda // 1000 < OLDEST_CUDA:
        yield Check(
            told("gpu driver"),
            FAIL,
            told("{about}: too old", about=about),
            told("Install a driver for CUDA {oldest_cuda} or newer.", oldest_cuda=OLDEST_CUDA),
        )
    else:
        yield Check(told("gpu driver"), OK, about)
    for index in range(count):
        name = told("gpu") if count == 1 else told("gpu {index}", index=index)
        try:
            yield _one(nvml, index, name)
        except nvml.NVMLError as error:
            yield Check(
                name,
                WARN,
                told("It does not answer: {error}", error=error),
                told("Look at nvidia-smi; the GPU may need a restart."),
            )
    if count > 1:
        yield _count(count, len(usable_gpus(read_gpus(nvml))), subject)
    elif subject.recipe.finetune.gpus not in (1, AUTO):
        yield _count(1, 1, subject)


def _count(count: int, usable: int, subject: Subject) -> Check:
    """How many there are, and how many a finetune uses."""
    asked = subject.recipe.finetune.gpus
    found = counted(count, "GPU") if count else told("No GPU")
    if usable < count:
        found = told("{gpus}, {usable} by CUDA_VISIBLE_DEVICES", gpus=found, usable=usable)
    if asked == AUTO:
        return Check(told("gpu count"), OK, told("{found}; finetune uses as many as pay", found=found))
    if asked > max(1, usable):
        state = FAIL if "finetune" in subject.stages else WARN
        hint = told(
            "Set {fewer}, or {automatic} for as many as pay.",
            fewer=Use("finetune.gpus", max(1, usable)),
            automatic=Use("finetune.gpus", AUTO),
        )
        return Check(
            told("gpu count"),
            state,
            told("{found}; finetune.gpus is {asked}", found=found, asked=asked),
            hint,
            code="gpu.count",
        )
    return Check(
        told("gpu count"),
        OK,
        told(
            '{found}; finetune uses {asked} (finetune.gpus = "auto": as many as pay)',
            found=found,
            asked=asked,
        )
        if asked == 1
        else told("{found}; finetune uses {asked}", found=found, asked=asked),
    )


def _one(nvml: Any, index: int, name: str) -> Check:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    found = told(
        "{name}, {free} free of {total}, compute capability {major}.{minor}",
        name=_text(nvml.nvmlDeviceGetName(handle)),
        free=human_bytes(memory.free),
        total=human_bytes(memory.total),
        major=major,
        minor=minor,
    )
    with suppress(nvml.NVMLError):
        mode, _ = nvml.nvmlDeviceGetMigMode(handle)
        if mode:
            return Check(
                name,
                WARN,
                told("{found}; split by MIG", found=found),
                told(
                    "The memory free in your slice may be less; torch uses the slice that "
                    "CUDA_VISIBLE_DEVICES names."
                ),
            )
    if (major, minor) < OLDEST_CAPABILITY:
        return Check(
            name,
            WARN,
            told("{found}: older than today's torch supports", found=found),
            told("Use a GPU of capability 7.0 or newer."),
        )
    holders = _holders(nvml, handle)
    if holders and memory.free < memory.total / 2:
        return Check(
            name,
            WARN,
            told("{found}; held by {holders}", found=found, holders=holders),
            told("Stop those programs if the lab needs the memory."),
        )
    return Check(
        name, OK, told("{found}; also used by {holders}", found=found, holders=holders) if holders else found
    )


def _holders(nvml: Any, handle: Any) -> str:
    import psutil

    names = []
    with suppress(nvml.NVMLError):
        for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle):
            used = human_bytes(process.usedGpuMemory) if process.usedGpuMemory else told("unknown size")
            try:
                names.append(
                    told(
                        "{name} (pid {pid}, {used})",
                        name=psutil.Process(process.pid).name(),
                        pid=process.pid,
                        used=used,
                    )
                )
            except psutil.Error:
                names.append(told("pid {pid} ({used})", pid=process.pid, used=used))
    return listed(names[:4])


def _no_nvml(subject: Subject) -> Check:
    if any(Path(mark).exists() for mark in DRIVER_MARKS):
        return Check(
            told("gpu"),
            WARN,
            told("The NVIDIA driver is loaded, but its library (libnvidia-ml.so) cannot be."),
            told("Install the driver's libraries, or start the container with GPU access (--gpus all)."),
        )
    return _without(subject, told("No NVIDIA GPU."))


def _without(subject: Subject, found: str) -> Check:
    if subject.recipe.optimize.device == "gpu":
        return Check(
            told("gpu"),
            WARN,
            told("{found} optimize.device is gpu: the model is built, but not tried here.", found=found),
            told('Set optimize.device = "cpu" to chat on this machine.'),
        )
    if subject.recipe.model.source == REHEARSAL:
        return Check(told("gpu"), OK, told("{found} The rehearsal model needs none.", found=found))
    return Check(
        told("gpu"),
        WARN,
        told("{found} The stages run on the CPU: right, and slow for a large model.", found=found),
        told("See the time checks below; or use a machine with a GPU."),
    )


def builds(subject: Subject) -> Iterator[Check]:
    """Whether torch and onnxruntime-genai are CUDA or CPU builds, and whether that fits the machine."""
    has_gpu = (nvml := load_nvml()) is not None and bool(read_gpus(nvml))
    cuda = torch_cuda()
    if cuda is None:
        yield Check(told("torch build"), SKIP, told("torch is not installed."))
    elif has_gpu and not cuda:
        yield Check(
            told("torch build"),
            WARN,
            told("A CPU build of torch on a machine with a GPU: the GPU lies idle."),
            told("pip install --force-reinstall torch==2.13.0 (without +cpu)"),
        )
    else:
        yield Check(told("torch build"), OK, told("torch for {cuda}", cuda=f"CUDA {cuda}" if cuda else "CPU"))
    both = [
        (a, b)
        for a, b in (("onnxruntime", "onnxruntime-gpu"), ("onnxruntime-genai", "onnxruntime-genai-cuda"))
        if package_version(a) and package_version(b)
    ]
    for a, b in both:
        yield Check(
            told("onnxruntime build"),
            WARN,
            told("{a} and {b} are both installed and overwrite each other's files.", a=a, b=b),
            told("make cuda; or pip uninstall -y {a} {b}, then pip install {b} again", a=a, b=b),
        )
    if both:
        return
    name = "onnxruntime-genai-cuda" if package_version("onnxruntime-genai-cuda") else "onnxruntime-genai"
    if subject.recipe.optimize.provider == "CUDAExecutionProvider" and name == "onnxruntime-genai":
        yield Check(
            told("onnxruntime build"),
            WARN,
            told("The recipe builds for CUDA; onnxruntime-genai here is the CPU build."),
            told("To chat on the GPU: make cuda (without a checkout: see Installing in the README)"),
        )
    elif package_version(name):
        yield Check(
            told("onnxruntime build"),
            OK,
            f"{name} {package_version(name)}",
        )


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
