"""The upload stage: the optimized model goes to an Azure ML workspace and is registered there.

It goes by blocks and goes on where it was stopped; a cancel is obeyed within a second whatever the line
does (:func:`core.azure.patience.cancellable`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.azure.patience import Stop, cancellable
from core.azure.workspace import Place
from core.errors import Cancelled, LabError, StageError
from core.events import Reporter
from core.folder import LabFolder
from core.model.auto import Settled
from core.stage_context import StageContext
from core.upload.contents import collect


def fingerprint(lab: LabFolder, recipe: Settled) -> dict[str, Any]:
    """What is uploaded and where to. Nothing is kept by it: the workspace itself is asked each time.

    Raises:
        RequestError: no workspace is chosen, or there is no model yet.
    """
    Place.of(recipe, lab.root)
    contents = collect(lab, recipe)
    return {"files": len(contents.items), "bytes": contents.total, "name": recipe.upload.name}


def output(lab: LabFolder, recipe: Settled) -> Path | None:
    """None: whether there is anything to do is for the workspace to say."""
    return None


def run(context: StageContext) -> dict[str, Any]:
    """Send what is missing, verify, register; the result is that of ``olivepress upload --json``.

    Raises:
        RequestError, MachineError, StageError: explained, without anything secret in them.
        Cancelled: what has arrived is kept for the next time.
    """
    from core.azure.errors import explain
    from core.upload.uploading import upload

    # Choices of this run only, such as upload.concurrency.
    recipe = context.recipe.with_values({k: v for k, v in context.options.items() if k.startswith("upload.")})

    def work(stop: Stop, report: Reporter) -> dict[str, Any]:
        try:
            return upload(context.lab, recipe, report, stop)
        except LabError:
            raise
        except OSError as error:
            raise StageError(
                "The upload stopped.",
                f"{error.strerror}: {error.filename}",
                "Run it again.",
                code="upload.stopped",
            ) from None
        except Exception as error:  # an exception of the SDK may quote a signature: it goes no further
            raise explain(error, "upload") from None

    try:
        return cancellable(work, context.report)
    except Cancelled:
        context.report.log("Cancelled. What has arrived is kept for the next upload; nothing was registered.")
        raise
