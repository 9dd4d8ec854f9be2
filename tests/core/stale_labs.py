"""Results with the manifests that the stages would leave now, without running them."""

from __future__ import annotations

import json

from core.data.records import count
from core.events import Reporter
from core.files import MANIFEST, folder_stamp, write_json
from core.lab import Lab
from core.model.auto import facts_at_hand, resolve
from core.stages import STAGES


def make_anew(lab: Lab, *stages: str) -> None:
    """What these stages would leave now: proof, weights, manifest, and the adapter beside the ONNX model."""
    folder, recipe = lab.folder, lab.recipe
    facts = facts_at_hand(folder, recipe)
    assert facts is not None
    settled = resolve(recipe, facts, count(recipe, lab.root, Reporter())).recipe
    name = recipe.finetune.adapter
    for each in stages:
        stage = STAGES[each]
        assert stage.makes is not None
        place = stage.makes.folder(folder, name)
        place.mkdir(parents=True, exist_ok=True)
        if not (place / stage.makes.proof).is_file():
            (place / stage.makes.proof).write_text("{}")
        if each == "finetune":
            (place / "adapter_model.safetensors").write_bytes(b"weights")
        fingerprint = {"stage": each, **stage.load().fingerprint(folder, settled)}
        manifest = {
            "fingerprint": json.loads(json.dumps(fingerprint)),
            "model": {"source": recipe.model.source, "facts": facts.as_dict()},
            "result": {"steps": 1},
        }
        if each == "optimize":
            file = folder.adapter_file(name)
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(b"adapter")
            write_json(file.with_name(f"{name}.json"), {"source": folder_stamp(folder.finetuned_dir(name))})
        write_json(place / MANIFEST, manifest)
