"""Where to train, in which float type, and how much memory there is."""

from __future__ import annotations

import gc

import torch


def training_device() -> torch.device:
    """The first CUDA device, or the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def training_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU that has it, else float32: a CPU is no faster with less, and no better."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32


def free_bytes(device: torch.device) -> int:
    """Memory that a training may use on the device: free GPU memory, or RAM that is available."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What this process has set aside and does not use is free to it.
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    import psutil

    return min(int(psutil.virtual_memory().available), _container_left())


def _container_left() -> int:
    """What a container's limit (cgroup v2) leaves, where there is one; else more than any machine has."""
    try:
        with open("/sys/fs/cgroup/memory.max") as file:
            limit = int(file.read())
        with open("/sys/fs/cgroup/memory.current") as file:
            used = int(file.read())
        with open("/sys/fs/cgroup/memory.stat") as file:
            stat = dict(line.split() for line in file)
    except (OSError, ValueError):
        return 2**62
    # Cached files are given back when memory is wanted.
    return max(0, limit - used + int(stat.get("inactive_file", 0)) + int(stat.get("active_file", 0)))


def give_back(device: torch.device) -> None:
    """Return unused memory to the device, so that other programs see it free."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def told_shortly(error: BaseException) -> str:
    """What torch says of a full device: who holds how much, without its advice on its own settings."""
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return first.split(" Of the allocated memory")[0].rstrip(".")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch's says that the device is full; its libraries have words of their own."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in ("CUDA error: out of memory", "ALLOC_FAILED", "CUDNN_STATUS_ALLOC")
    )
