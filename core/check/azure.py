"""Azure: which sign-in would be used, as whom, and which workspace. Nothing is called over the network."""

from __future__ import annotations

from collections.abc import Iterator

from core.azure.signin import found, remembered
from core.check.types import OK, SKIP, WARN, Check, Subject
from core.errors import Do


def azure(subject: Subject) -> Iterator[Check]:
    """What `olivepress upload` would use."""
    upload = subject.recipe.upload
    wanted = bool(upload.workspace or upload.subscription) or "upload" in subject.stages
    choice = remembered() or found()
    if choice is None:
        if wanted:
            yield Check("azure sign-in", WARN, "Nobody is signed in.", (Do("login"),))
        else:
            yield Check("azure sign-in", SKIP, "Nobody is signed in; only upload needs it.")
    else:
        who = f" as {choice.user}" if getattr(choice, "user", "") else ""
        how = "chosen" if choice.chosen else "found"
        yield Check("azure sign-in", OK, f"{choice.method} ({how}){who}; not asked over the network")
    if upload.workspace and upload.resource_group and upload.subscription:
        yield Check("azure workspace", OK, f"{upload.workspace} in {upload.resource_group}")
    elif wanted:
        yield Check(
            "azure workspace",
            WARN,
            "The recipe names no whole workspace.",
            (Do.of("workspaces", subject.lab.root, "--use", "NAME"),),
        )
