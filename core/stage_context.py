"""What a running stage is given, and how the recipe is settled for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.events import Reporter
from core.folder import LabFolder
from core.hardware import package_version
from core.model.auto import (
    Facts,
    Resolved,
    Settled,
    facts_at_hand,
    facts_of_quantized,
    remembered_facts,
    resolve,
)
from core.recipe import Recipe
from core.stages import Stage


@dataclass(frozen=True)
class StageContext:
    """What a running stage is given.

    Attributes:
        lab: where things lie in the lab.
        recipe: the recipe as it was when the job was made, with every "auto" resolved.
        report: where progress, metrics, artifacts and log lines go.
        work: an empty folder on the lab's own disk for what is half made; removed afterwards. A
            finished result is renamed from here into place with :func:`core.files.publish`.
        manifest: what stands in ``olivepress.json`` beside the result; the stage adds its ``result``
            and hands it to :func:`~core.files.publish`.
        options: choices that are of this run only and not in the recipe.
        job: the job's id.
    """

    lab: LabFolder
    recipe: Settled
    report: Reporter
    work: Path
    manifest: dict[str, Any]
    options: dict[str, Any]
    job: str = ""


def versions(*packages: str) -> dict[str, str]:
    """The installed versions of some packages, read from their metadata."""
    return {package: package_version(package) or "missing" for package in packages}


def resolve_for_stage(
    stage: Stage, lab: LabFolder, recipe: Recipe, report: Reporter
) -> tuple[Resolved, Facts | None]:
    """A recipe resolved for a job: by the model that the stage works on, which is fetched if need be.

    Raises:
        LabError: the model cannot be had, or the records cannot be read.
    """
    from core.data.records import count
    from core.model.sources import kind_of, resolve_model

    facts: Facts | None
    if stage.needs:
        facts = facts_of_quantized(lab)
    else:
        source, trust = recipe.model.source, recipe.model.trust_remote_code
        made_from = remembered_facts(lab)
        remote = kind_of(source, lab.root) in ("hub", "azureml")
        if made_from is not None and made_from[0] == source and remote:
            facts = made_from[1]
        else:
            facts = Facts.of(resolve_model(source, lab.root, report, trust_remote_code=trust).path)
    wanted = facts is not None and stage.records(recipe)
    return resolve(recipe, facts, count(recipe, lab.root, report) if wanted else None), facts


def resolve_at_hand(
    stage: Stage, lab: LabFolder, recipe: Recipe, report: Reporter, facts: Facts | None = None
) -> tuple[Resolved, Facts | None]:
    """The same for a stage that runs elsewhere, by what lies here: nothing is fetched, and no model need be here.

    Args:
        facts: of the model, as the other machine told them.
    """
    from core.data.records import count

    if facts is None:
        facts = facts_of_quantized(lab) if stage.needs else facts_at_hand(lab, recipe)
    wanted = facts is not None and stage.records(recipe)
    return resolve(recipe, facts, count(recipe, lab.root, report) if wanted else None), facts


def known_facts(manifest: Mapping[str, Any]) -> Facts | None:
    """The facts of the model that a result's manifest keeps; None where it keeps none."""
    try:
        return Facts.from_dict(manifest["model"]["facts"])
    except (KeyError, TypeError, ValueError):
        return None
