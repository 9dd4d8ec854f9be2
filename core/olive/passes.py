"""Passes that Olive lacks, and how Olive finds them.

Olive learns of a pass through its package configuration: ``olive run --package-config FILE`` takes
a file that replaces its own, so what is given here is Olive's own list with ours added.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PASSES: dict[str, dict[str, Any]] = {
    "OlivePressAwq": {
        "module_path": "core.quantize.awq.OlivePressAwq",
        "supported_providers": ["*"],
        "supported_accelerators": ["*"],
        "supported_precisions": ["int4", "int8", "uint4", "uint8"],
        "supported_algorithms": ["awq"],
        "supported_quantization_encodings": [],
        "dataset": "dataset_required",
    },
    "OlivePressLora": {
        "module_path": "core.finetune.lora.OlivePressLora",
        "supported_providers": ["*"],
        "supported_accelerators": ["*"],
        "supported_precisions": ["*"],
        "supported_algorithms": [],
        "supported_quantization_encodings": [],
        "dataset": "dataset_not_required",
    },
    "OlivePressModelBuilder": {
        "module_path": "core.optimize.model_builder.OlivePressModelBuilder",
        "supported_providers": ["*"],
        "supported_accelerators": ["*"],
        "supported_precisions": ["*"],
        "supported_algorithms": [],
        "supported_quantization_encodings": [],
        "dataset": "dataset_not_required",
    },
    "OlivePressOnnx": {
        "module_path": "core.optimize.olive_pass.OlivePressOnnx",
        "supported_providers": ["*"],
        "supported_accelerators": ["*"],
        "supported_precisions": ["*"],
        "supported_algorithms": [],
        "supported_quantization_encodings": [],
        "dataset": "dataset_not_required",
    },
}
"""What stands in the package configuration for each pass of ours."""


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
