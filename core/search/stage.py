"""The search as a job: it leaves nothing but what it found out, and each figure is measured once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.errors import RequestError
from core.folder import LabFolder
from core.language import told
from core.model.auto import Settled
from core.search.space import SearchLimits
from core.searched import KINDS, summary
from core.stage_context import StageContext


def fingerprint(lab: LabFolder, recipe: Settled) -> dict[str, Any]:
    """Nothing by which the job as a whole would be left out: what is measured is known by the figures' own digests."""
    return {}


def output(lab: LabFolder, recipe: Settled) -> Path | None:
    """No folder: a search is always run, and looks up what was measured before."""
    return None


def run(context: StageContext) -> dict[str, Any]:
    """Search as the job's options say: ``kind``, ``limits``, and what is to be tried.

    Raises:
        RequestError: there is no such kind of search, or what it starts from is missing.
        LabError: as the stages raise it whose settings are looked for.
    """
    options = dict(context.options)
    kind = options.get("kind", "quantize")
    limits = SearchLimits.from_dict(options.get("limits") or {})
    if kind == "quantize":
        from core.search.quantize import FINALISTS, QuantizeSearch

        board = QuantizeSearch(
            context,
            limits,
            algorithms=options.get("algorithms") or (),
            groups=options.get("groups") or (),
            mixed=options.get("mixed", True),
            finalists=options.get("finalists") or FINALISTS,
        ).run()
    elif kind == "finetune":
        from core.search.finetune import TRIES, FinetuneSearch

        board = FinetuneSearch(context, limits, tries=options.get("tries") or TRIES).run()
    else:
        raise RequestError(
            told("There is no search for {kind}.", kind=repr(kind)),
            hint=told("There are: {names}.", names=", ".join(KINDS)),
            code="search.kind",
        )
    return dict(summary(board))
