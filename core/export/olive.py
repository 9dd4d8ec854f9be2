"""The lab's stages as one Olive workflow file, for people who go on with Olive alone.

Imports transformers (to cut the calibration rows into tokens) and olive: not for the UI's process.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import RequestError, Use
from core.events import Reporter
from core.export.write import Exported, ExportRequest
from core.files import write_atomic, write_json
from core.language import told
from core.recipe import recipe_text

if TYPE_CHECKING:
    from core.lab import Lab


def run(wanted: ExportRequest) -> Exported:
    """Write the workflow and what stands beside it. A workflow that is there already is written anew."""
    path = Path(wanted.out).expanduser().absolute()
    written = export_olive(wanted.lab, path)
    return Exported("olive", str(path), files={str(file): what for file, what in written.items()})


def export_olive(lab: Lab, path: Path) -> dict[Path, str]:
    """Write the workflow, the settled recipe, Olive's package configuration with our passes, and the calibration rows.

    The files stand beside each other; the workflow names the others, and the lab's files, by
    absolute paths.

    Returns:
        each file written, with what it is and how to use it.

    Raises:
        RequestError: the model or the data is missing or wrong.
        MachineError: the files cannot be written.
    """
    from core.data import resolve_data_file
    from core.data.records import count
    from core.finetune import stage as finetune
    from core.model.auto import Facts, resolve
    from core.model.folder import model_facts
    from core.model.sources import resolve_model
    from core.olive.passes import package_config
    from core.olive.run import workflow
    from core.optimize.build import choose
    from core.quantize import stage as quantize
    from core.quantize.calibration import write_rows
    from core.stage_context import StageContext

    asked, root = lab.recipe, lab.root
    if asked.optimize.adapters == "merged":
        raise RequestError(
            told("An Olive workflow does not merge adapters."),
            told(
                "{root}: optimize.adapters is merged, and the workflow would put the adapter beside the "
                "base.",
                root=lab.root,
            ),
            told("Set {adapters}, then export.", adapters=Use("optimize.adapters", "switched")),
            code="export.merged",
        )
    path = path.expanduser().absolute()
    rows_file, package_file = path.with_suffix(".calibration.json"), path.with_suffix(".package.json")
    recipe_file = path.with_suffix(".recipe.toml")
    source = resolve_model(
        asked.model.source, root, Reporter(), trust_remote_code=asked.model.trust_remote_code
    )
    resolve_data_file(asked, root)
    facts = model_facts(source.path)
    resolved = resolve(asked, Facts.of(source.path), count(asked, root, Reporter()))
    recipe = resolved.recipe
    steps: dict[str, Any] = {}
    if recipe.quantize.algorithm != "none":
        steps.update(quantize.passes(recipe, rows_file, source.path))
    steps["finetune"] = finetune.lora_pass(recipe_file, root)
    if "quantize" in steps:  # the builder will be given what that pass makes
        rounded = {"bits": recipe.quantize.bits, "lm_head": True}
        facts_then = dataclasses.replace(facts, quantization=rounded)
    else:
        facts_then = facts
    built = choose(facts_then, recipe.optimize.precision, recipe.optimize.provider)
    steps["optimize"] = {
        "type": "OlivePressOnnx",
        **built.options(),
        "adapter": recipe.finetune.adapter,
        "recipe": str(recipe_file),
    }
    whole = {
        **workflow(
            source.path.absolute(),
            steps,
            trust_remote_code=recipe.model.trust_remote_code,
            device=recipe.optimize.device,
            provider=recipe.optimize.provider,
        ),
        "output_dir": str(path.with_suffix(".output")),
        "cache_dir": str(path.with_suffix(".cache")),
    }
    written: dict[Path, str] = {
        path: told(
            "the workflow: olive run --config {path} --package-config {package_file}",
            path=path,
            package_file=package_file,
        )
    }
    if "data_config" in steps.get("quantize", {}):
        context = StageContext(lab.folder, recipe, Reporter(), path.parent, {}, {})
        rows, _ = quantize.chosen_rows(context, source.path, facts)
        write_rows(rows_file, rows)
        written[rows_file] = told("the calibration rows, as token ids")
    write_atomic(recipe_file, recipe_text(recipe))
    written[recipe_file] = told("the recipe with every auto settled, which the passes read")
    write_json(package_file, package_config())
    written[package_file] = told("Olive's package configuration with the passes of OlivePress")
    write_json(path, whole)
    return written
