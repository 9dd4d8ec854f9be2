"""Azure: which sign-in would be used, as whom, and which workspace. Nothing is called over the network."""

from __future__ import annotations

from collections.abc import Iterator

from core.azure.signin import found, remembered
from core.check.types import OK, SKIP, WARN, Check, Subject
from core.errors import Do
from core.language import told


def azure(subject: Subject) -> Iterator[Check]:
    """What `olivepress upload` would use."""
    upload = subject.recipe.upload
    wanted = bool(upload.workspace or upload.subscription) or "upload" in subject.stages
    choice = remembered() or found()
    if choice is None:
        if wanted:
            yield Check(told("azure sign-in"), WARN, told("Nobody is signed in."), (Do("login"),))
        else:
            yield Check(told("azure sign-in"), SKIP, told("Nobody is signed in; only upload needs it."))
    else:
        who = told(" as {user}", user=choice.user) if getattr(choice, "user", "") else ""
        how = told("chosen") if choice.chosen else told("found")
        yield Check(
            told("azure sign-in"),
            OK,
            told("{method} ({how}){who}; not asked over the network", method=choice.method, how=how, who=who),
        )
    if upload.workspace and upload.resource_group and upload.subscription:
        yield Check(
            told("azure workspace"),
            OK,
            told(
                "{workspace} in {resource_group}",
                workspace=upload.workspace,
                resource_group=upload.resource_group,
            ),
        )
    elif wanted:
        yield Check(
            told("azure workspace"),
            WARN,
            told("The recipe names no whole workspace."),
            (Do.of("workspaces", subject.lab.root, "--use", "NAME"),),
        )
