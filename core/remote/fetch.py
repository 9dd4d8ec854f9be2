"""Bringing a stage's result back: what the job says that it left, all of it, checked."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.azure.download import Receiver
from core.azure.retry import Stop
from core.azure.storage import Container
from core.errors import Do, StageError
from core.events import Reporter
from core.files import digest, folder_stamp, read_if_whole, write_json
from core.folder import LabFolder
from core.language import told


@dataclass(frozen=True)
class Made:
    """What a stage left there.

    Attributes:
        folder: where in the job's outputs.
        files: size and SHA-256 of each, by name.
        told: the rest: ``result``, ``auto``, ``model``, ``peaks``, ``seconds``, ``made_on``.
    """

    folder: str
    files: dict[str, tuple[int, str]]
    told: dict[str, Any]


def look(container: Container, out: str, stage: str, lab: Path) -> Made | None:
    """What the job says that a stage has left; None while it says nothing.

    Raises:
        StageError: it says it in a form that this version does not read.
    """
    from azure.core.exceptions import ResourceNotFoundError

    client = container.client.get_blob_client(f"{out}/{stage}.json")

    def read() -> bytes | None:
        try:
            return bytes(client.download_blob(max_concurrency=1).readall())
        except ResourceNotFoundError:
            return None

    data = container.call(read, told("result of {stage}", stage=stage))
    if data is None:
        return None
    try:
        noted = json.loads(data)
        files = {str(name): (int(size), str(sha)) for name, (size, sha) in noted.pop("files").items()}
        folder = str(noted.pop("folder"))
        if (
            not folder.startswith("made/")
            or ".." in folder.split("/")
            or not isinstance(noted["result"], dict)
        ):
            raise ValueError(folder)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StageError(
            told("What the job left is not understood."),
            told("{out}/{stage}.json.", out=out, stage=stage),
            told(
                "Run it with the same version of OlivePress, or anew: {run}",
                run=Do.of("run", lab, stage, "--force"),
            ),
            code="remote.result",
        ) from None
    return Made(folder, files, noted)


def bring(
    container: Container, out: str, stage: str, made: Made, lab: LabFolder, stop: Stop, report: Reporter
) -> Path:
    """A stage's result in a folder of the lab's disk, whole; goes on where an earlier try was stopped.

    Raises:
        StageError: a file is missing, or is not what the job says.
    """
    target = lab.models_dir / f".fetched-{stage}-{made.folder.rsplit('-', 1)[-1]}"
    for other in lab.models_dir.glob(f".fetched-{stage}-*"):
        if other != target:
            shutil.rmtree(other, ignore_errors=True)
    target.mkdir(parents=True, exist_ok=True)
    receiver = Receiver(
        container,
        f"{out}/{made.folder}",
        target,
        stop=stop,
        on_bytes=lambda done, total: report.progress(told("bringing it back"), done, total),
        say=report.log,
    )
    sizes = receiver.receive()
    wrong = sorted(
        name
        for name, (size, sha) in made.files.items()
        if sizes.get(name) != size or digest(target / name) != sha
    )
    wrong += sorted(set(sizes) - set(made.files))
    if wrong:
        shutil.rmtree(target, ignore_errors=True)
        raise StageError(
            told("What came back is not what the job left."),
            told(
                "Missing, damaged or too much of {count} files: {wrong}.",
                count=len(made.files),
                wrong=", ".join(wrong[:3]),
            ),
            told("Run it again. If it stays so: {run}", run=Do.of("run", lab.root, stage, "--force")),
            code="fetch.damaged",
        )
    return target


def as_made_here(folder: Path, lab: LabFolder) -> None:
    """Put this lab's places where the result names those of the other machine."""
    config = read_if_whole(folder / "adapter_config.json")
    if isinstance(config, dict) and "base_model_name_or_path" in config:
        write_json(
            folder / "adapter_config.json", {**config, "base_model_name_or_path": str(lab.quantized_dir)}
        )
    for note in (*folder.glob("adapters/*.json"), *folder.glob("merged/*.json")):
        noted = read_if_whole(note)
        trained = lab.finetuned_dir(note.stem)
        if isinstance(noted, dict) and noted.get("source") and trained.is_dir():
            # The adapter is the one that lies here: it came from there, or went there from here.
            write_json(note, {**noted, "source": folder_stamp(trained)})
