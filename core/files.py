"""Files that are whole or absent: atomic writes, folders renamed into place, digests and sizes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from core.errors import MachineError, RequestError
from core.formats import human_bytes

MANIFEST = "olivepress.json"


PRIVATE = 0o600
"""The mode of a file that only its user may read."""


def write_atomic(path: Path, text: str, mode: int = 0o666) -> None:
    """Write ``text`` so that a reader sees the old file or the new one, never a part.

    Args:
        mode: of a new file, less what the umask takes; one that is there keeps its own, if that allows no more.

    Raises:
        MachineError: the disk is full or the folder cannot be written.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = half_made(path, mode)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            with suppress(FileNotFoundError):
                os.chmod(name, path.stat().st_mode & mode)
            os.replace(name, path)
        except BaseException:  # Ctrl-C too leaves no half-written file
            with suppress(FileNotFoundError):
                os.unlink(name)
            raise


def half_made(path: Path, mode: int = 0o666) -> tuple[int, Path]:
    """A new file beside ``path``, open for writing, and its name; it is to be renamed to ``path`` when it is whole.

    Made with the mode that it will have: the umask is obeyed, and nobody else can open it in between.
    """
    name = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}"
    return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), name


def as_umask_says(folder: Path) -> None:
    """Give all that lies in a folder the modes of new files: safetensors makes its own for their owner alone."""
    mask = os.umask(0o077)
    os.umask(mask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def write_json(path: Path, data: Any, mode: int = 0o666) -> None:
    """Write ``data`` as indented JSON, atomically; ``mode`` as :func:`write_atomic` takes it."""
    write_atomic(path, json.dumps(data, indent=2, ensure_ascii=False, sort_keys=False) + "\n", mode)


def read_json(path: Path) -> Any:
    """The JSON in a file, or None where there is no such file.

    Raises:
        RequestError: the file is there and is not JSON, as after a copy that broke off, or cannot be read.
    """
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(
            "A file is damaged.",
            f"{path} cannot be read: {error.strerror}."
            if isinstance(error, OSError)
            else f"{path} is not JSON: {error}.",
            "Put a good copy in its place, or make anew what it belongs to.",
            code="file.damaged",
        ) from None


def read_if_whole(path: Path) -> Any:
    """As :func:`read_json`, but None where it is damaged, too.

    For a file that is made anew when it is lost, and for one whose damage is told elsewhere.
    """
    try:
        return read_json(path)
    except RequestError:
        return None


def publish(made: Path, target: Path, manifest: dict[str, Any] | None = None) -> None:
    """Rename the finished folder ``made`` into place as ``target``, replacing an older one.

    Both must be on one file system. The older folder is set aside first and removed last, so that
    ``target`` is at every moment absent or whole; when the rename fails the older one comes back.

    Args:
        manifest: written into the folder as ``olivepress.json`` before the rename.
    """
    with explained(target):
        if manifest is not None:
            write_json(made / MANIFEST, manifest)
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.parent / f".{target.name}.old-{uuid.uuid4().hex[:8]}"
        had_old = target.exists()
        if had_old:
            os.rename(target, aside)
        try:
            os.rename(made, target)
        except BaseException:  # whatever it was, what was there before stands there again
            if had_old:
                os.rename(aside, target)
            raise
        if had_old:
            shutil.rmtree(aside, ignore_errors=True)


def restore(parent: Path) -> None:
    """Undo what :func:`publish` could not finish below ``parent``, as when its process was killed.

    A folder that was set aside comes back where nothing stands in its place, and goes where something does.
    """
    with suppress(OSError):
        for aside in sorted(parent.glob(".*.old-*")):
            target = parent / aside.name[1:].rpartition(".old-")[0]
            if target.exists():
                shutil.rmtree(aside, ignore_errors=True)
            else:
                aside.rename(target)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write into errors that say what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = human_bytes(shutil.disk_usage(_existing_parent(path)).free)
            raise MachineError(
                "The disk is full.",
                f"Writing {path} needed more than the {free} that are free.",
                "Free some space, or make the lab in a folder on another disk.",
                code="disk.full",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise MachineError(
                "The folder cannot be written.",
                f"{path}: {error.strerror}.",
                "Give yourself the right to write there, or use another folder.",
                code="disk.not-writable",
            ) from error
        raise


def _existing_parent(path: Path) -> Path:
    while not path.exists() and path.parent != path:
        path = path.parent
    return path


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_stamp(folder: Path) -> str:
    """A digest of the names, sizes and modification times below a folder.

    Cheap enough for folders of many gigabytes, and changes whenever a stage publishes anew.
    """
    lines = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            stat = path.stat()
            lines.append(f"{path.relative_to(folder)}\0{stat.st_size}\0{stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def content_stamp(path: Path) -> str:
    """What tells a file, or a folder, from another: a digest of its bytes, or :func:`folder_stamp`."""
    return folder_stamp(path) if path.is_dir() else digest(path)


def folder_bytes(folder: Path) -> int:
    """The sum of the sizes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
