"""Passes that Olive lacks, and how Olive finds them.

Olive learns of a pass through its package configuration: ``olive run --package-config FILE`` takes
a file that replaces its own, so what is given here is Olive's own list with ours added.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def _entry(place: str, **more: Any) -> dict[str, Any]:
    return {
        "module_path": place,
        "supported_providers": ["*"],
        "supported_accelerators": ["*"],
        "supported_precisions": ["*"],
        "supported_algorithms": [],
        "supported_quantization_encodings": [],
        "dataset": "dataset_not_required",
        **more,
    }


PASSES: dict[str, dict[str, Any]] = {
    "OlivePressAwq": _entry(
        "core.quantize.awq.OlivePressAwq",
        supported_precisions=["int4", "int8", "uint4", "uint8"],
        supported_algorithms=["awq"],
        dataset="dataset_required",
    ),
    "OlivePressLora": _entry("core.finetune.lora.OlivePressLora"),
    "OlivePressModelBuilder": _entry("core.optimize.passes.OlivePressModelBuilder"),
    "OlivePressOnnx": _entry("core.optimize.passes.OlivePressOnnx"),
}
"""What stands in the package configuration for each pass of ours."""


def options(table: Mapping[str, tuple[Any, Any, str]]) -> dict[str, Any]:
    """The options of a pass as Olive declares them, from each one's type, default and meaning."""
    from olive.passes.pass_config import PassConfigParam

    return {
        key: PassConfigParam(type_=kind, default_value=default, description=meaning)
        for key, (kind, default, meaning) in table.items()
    }


def package_config() -> dict[str, Any]:
    """Olive's package configuration with our passes in it. Imports olive."""
    from olive.package_config import OlivePackageConfig

    own = Path(OlivePackageConfig.get_default_config_path())
    config: dict[str, Any] = json.loads(own.read_text(encoding="utf-8"))
    config["passes"] = {**config["passes"], **PASSES}
    return config


def write_package_config(path: Path) -> None:
    """Write the file that ``olive run --package-config`` takes."""
    from core.files import write_json

    write_json(path, package_config())
