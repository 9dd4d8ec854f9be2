"""Recipes as the stages get them, for tests that run a stage without a job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.model.auto import Facts, Settled, resolve
from core.recipe import Recipe


def settled(values: dict[str, Any], model: Path | None = None, *, base: Recipe | None = None) -> Settled:
    """A recipe with these values, ``{"section.key": value}``, and all that is "auto" resolved for ``model``.

    Args:
        base: what the other values are taken from; by default those of a new lab.
    """
    recipe = (base or Recipe()).with_values(values)
    return resolve(recipe, Facts.of(model) if model else None, None).recipe
