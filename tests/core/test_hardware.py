"""Which GPUs are used, and that each is shown."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from core.events import RecordingReporter
from core.hardware import GpuReading, gpu_fault, is_out_of_memory, read_gpus, usable_gpus
from core.jobs import monitor
from tests.waiting import until
from tui import machine_load

GIB = 1 << 30


def gpu(index: int, used: int = 40, load: float | None = 98.0) -> GpuReading:
    return GpuReading(index, "Test", 80 * GIB, used * GIB, load, f"GPU-{index}{index}ab")


FOUR = [gpu(index) for index in range(4)]


@pytest.mark.parametrize(
    ("visible", "indices"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("2", [2]),
        ("3, 1", [3, 1]),
        ("GPU-22,0", [2, 0]),
        ("1,7,0", [1]),  # CUDA stops at the first that does not exist
        ("GPU-", []),
        ("-1", []),
        ("MIG-0a", []),
    ],
)
def test_the_gpus_that_cuda_would_show(
    visible: str | None, indices: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [each.index for each in usable_gpus(FOUR)] == indices


class Nvml:
    """As much of pynvml as a reading needs; the second GPU does not tell its load, the third is lost."""

    class NVMLError(Exception):
        pass

    def nvmlDeviceGetCount(self) -> int:
        return 3

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index == 2:
            raise self.NVMLError("GPU is lost")
        return index

    def nvmlDeviceGetMemoryInfo(self, index: int) -> Any:
        return SimpleNamespace(total=80 * GIB, used=(index + 1) * GIB)

    def nvmlDeviceGetUtilizationRates(self, index: int) -> Any:
        if index:
            raise self.NVMLError("not supported")
        return SimpleNamespace(gpu=97)

    def nvmlDeviceGetName(self, index: int) -> bytes:
        return b"NVIDIA Test"

    def nvmlDeviceGetUUID(self, index: int) -> str:
        return f"GPU-{index}"


def test_a_job_tells_memory_and_load_of_every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(monitor, "load_nvml", Nvml)
    assert [each.uuid for each in read_gpus(Nvml())] == ["GPU-0", "GPU-1"]
    report = RecordingReporter()
    with monitor.Monitor(report, interval=0.01):
        until(lambda: report.metrics("gpu1_mem_gib"))
    assert report.metrics("gpu_mem_gib")[0] == 1.0
    assert report.metrics("gpu_util")[0] == 97
    assert report.metrics("gpu1_mem_gib")[0] == 2.0
    assert not report.metrics("gpu1_util")


def test_a_job_goes_on_telling_where_the_driver_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(monitor, "load_nvml", Nvml)
    report = RecordingReporter()
    with monitor.Monitor(report, interval=0.01):
        until(lambda: report.metrics("gpu_mem_gib"))

        def gone(self: Nvml) -> int:
            raise self.NVMLError("Driver Not Loaded")

        monkeypatch.setattr(Nvml, "nvmlDeviceGetCount", gone)
        told = len(report.metrics("ram_gib"))
        until(lambda: len(report.metrics("ram_gib")) > told + 2)
    assert read_gpus(Nvml()) == []


def test_what_cuda_says_of_a_gpu_is_told_by_its_number() -> None:
    def cuda(number: int, words: str) -> Exception:
        error: Exception = torch.AcceleratorError(
            f"CUDA error: {words}\nFor debugging consider CUDA_LAUNCH_BLOCKING=1"
        )
        vars(error)["error_code"] = number
        return error

    for number, words in ((719, "unspecified launch failure"), (214, "uncorrectable ECC error encountered")):
        told = gpu_fault(cuda(number, words))
        assert told is not None
        assert (told.code, told.detail) == ("gpu.failed", f"CUDA error: {words}")
        assert not is_out_of_memory(cuda(number, words))
    full = cuda(2, "out of memory")
    assert is_out_of_memory(full)
    assert gpu_fault(full) is None
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert gpu_fault(RuntimeError("shapes do not match")) is None


@pytest.mark.parametrize(
    ("gpus", "shown"),
    [
        ([], ""),
        ([gpu(0)], "GPU 40.0/80 GiB 98%"),
        ([gpu(0, load=None)], "GPU 40.0/80 GiB"),
        ([gpu(0), gpu(1, 39, 5.0)], "GPU 40+39/160 GiB 98+5%"),
        ([gpu(0), gpu(1), gpu(2, 7), gpu(3, load=100.0)], "GPU 40+40+7+40/320 GiB 98+98+98+100%"),
        ([gpu(each, load=90.0 + each) for each in range(8)], "8 GPUs 320/640 GiB 90-97%"),
    ],
)
def test_the_wizard_shows_every_gpu(
    gpus: list[GpuReading], shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_load, "_nvml", object)
    monkeypatch.setattr("core.hardware.read_gpus", lambda nvml: gpus)
    assert machine_load.gpu_text() == shown


def pages_are_counted() -> bool:
    """Whether the C library is glibc, and the system gives pages one by one."""
    huge = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    always = huge.is_file() and "[always]" in huge.read_text(encoding="utf-8")
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc" and not always


@pytest.mark.skipif(not pages_are_counted(), reason="needs glibc, and pages of 4 KiB")
def test_what_is_freed_and_kept_is_not_cleared_again_and_can_be_given_back() -> None:
    """Five blocks of 20 MB, as the activations of a step: 25,600 pages."""
    code = """
import resource
from core.hardware import give_memory_back, keep_freed_memory

def cleared():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [b"a" * (20 << 20) for _ in range(5)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
first, again = cleared(), cleared()
give_memory_back()
print(first, again, cleared())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, again, given_back = map(int, done.stdout.split())
    assert again < 2_000 < min(first, given_back)
