"""Azure: sign in, find the workspace, send a model there without losing a byte, and bring models back.

Nothing of Azure is imported until a function is called: the packages take seconds to load and are
only wanted in a job's process or behind an ``olivepress`` command.
"""

from __future__ import annotations

from pathlib import Path

from core.events import Reporter


def download_model(uri: str, cache: Path, report: Reporter) -> Path:
    """A model of a registry or a workspace as a folder, from the cache if it is whole there.

    Args:
        uri: ``azureml://registries/<registry>/models/<name>/versions/<version>``, or the same of a
            workspace: ``azureml://subscriptions/<id>/resourceGroups/<group>/workspaces/<workspace>/models/…``.
        cache: the folder below which downloads are kept.
        report: gets progress in bytes; a cancel is seen within a second.

    Raises:
        RequestError: the address is wrong or names nothing.
        MachineError: not signed in, no right to read it, or no disk.
        StageError: the service failed for longer than we wait.
    """
    from core.azure.download import download_model as download

    return download(uri, cache, report)
