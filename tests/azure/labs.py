"""Labs with something to upload: files of the right names and of any size; no model is run."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from core.lab import Lab
from tests.azure.fake import SUBSCRIPTION

MIB = 1 << 20


def signed_in(azure: Any, monkeypatch: Any) -> None:
    """A service principal in the environment: the sign-in that needs no hands."""
    from tests.azure.fake import TENANT

    monkeypatch.setenv("AZURE_CLIENT_ID", "55555555-5555-5555-5555-555555555555")
    monkeypatch.setenv("AZURE_TENANT_ID", TENANT)
    monkeypatch.setenv("AZURE_CLIENT_SECRET", azure.fake.client_secret)


def make_lab(root: Path, sizes: dict[str, int], seed: int = 0) -> Lab:
    """A lab whose ``models/onnx`` has a config, an adapter and files of ``sizes``, of random bytes."""
    values = {
        "upload.subscription": SUBSCRIPTION,
        "upload.resource_group": "rg-travel",
        "upload.workspace": "travel-ws",
    }
    lab = Lab.create(root, settings=values)
    folder = lab.folder.onnx_dir
    source = random.Random(f"{seed}-{root.name}")
    for name, size in {"adapters/travel.onnx_adapter": 4096, **sizes}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            for start in range(0, size, MIB):
                stream.write(source.randbytes(min(MIB, size - start)))
    lab.folder.report_path.write_text("# lab\n\nWritten 2026-11-20T12:00:00Z by OlivePress.\n")
    (folder / "genai_config.json").write_text("{}")
    (folder / ".gitignore").write_text("*.data\n*.onnx\n")
    tuned = lab.folder.finetuned_dir("travel")
    tuned.mkdir(parents=True)
    manifest = {
        "fingerprint": {
            "stage": "finetune",
            "records": "d" * 64,
            "data": {"file": "data_sample_travel.jsonl"},
            "versions": {"peft": "0.21.2"},
        },
        "result": {"eval_loss_tuned": 1.25},
    }
    (tuned / "olivepress.json").write_text(json.dumps(manifest))
    return lab
