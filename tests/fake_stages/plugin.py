"""Puts the quick stages in the place of the real ones; named by ``OLIVEPRESS_PLUGIN``, so that jobs see them as well.

With ``FAKE_GPU`` in the environment, jobs see a GPU of that UUID.

Loaded in the processes of a lab only: a test that imported it would change the lists for all tests.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

from core import hardware
from core.stages import STAGES

for _name in ("quantize", "finetune"):
    STAGES[_name] = STAGES[_name]._replace(run=f"tests.fake_stages.{_name}.stage")

if _uuid := os.environ.get("FAKE_GPU"):

    class _Nvml:
        """As much of pynvml as jobs use."""

        NVMLError = RuntimeError

        def nvmlDeviceGetCount(self) -> int:
            return 1

        def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
            return index

        def nvmlDeviceGetMemoryInfo(self, _: int) -> Any:
            return SimpleNamespace(total=80 << 30, used=0)

        def nvmlDeviceGetUtilizationRates(self, _: int) -> Any:
            return SimpleNamespace(gpu=0)

        def nvmlDeviceGetName(self, _: int) -> str:
            return "A GPU"

        def nvmlDeviceGetUUID(self, _: int) -> str:
            return str(_uuid)

    hardware.load_nvml = _Nvml
    _version = hardware.package_version
    hardware.package_version = lambda name: "2.13.0" if name == "torch" else _version(name)
