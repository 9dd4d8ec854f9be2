"""Files that are whole or absent: atomic writes, folders renamed into place, digests and sizes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from core.errors import Hint, MachineError, RequestError
from core.folder import room_hint
from core.formats import human_bytes, listed
from core.language import told

MANIFEST = "olivepress.json"
FILES = "files"
"""The manifest's key for the sizes and digests of what lies beside it."""

MOST_BYTES = 100_000_000
"""Bytes of a file that is read whole: safetensors' own limit for its headers."""

PRIVATE = 0o600
"""The mode of a file that only its user may read."""


def open_file(path: Path) -> BinaryIO:
    """Open a file to read its bytes.

    Raises:
        OSError: it cannot be read, or is no file: to a pipe nobody may ever write, and a device has no end.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "It is no file", str(path))
    return os.fdopen(handle, "rb")


def small_bytes(path: Path) -> bytes:
    """The bytes of a file that is small where it is what its name says.

    Raises:
        OSError: it cannot be read, or is no file.
        ValueError: it is larger than any such file is, and would fill the memory.
    """
    with open_file(path) as stream:
        if os.fstat(stream.fileno()).st_size > MOST_BYTES:
            raise ValueError(f"it is larger than {MOST_BYTES:,} bytes")
        return stream.read()


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


def remove_half_made(folder: Path) -> None:
    """Remove what killed processes had begun to write in a folder; files of the last minute may be at work."""
    with suppress(OSError):
        for path in folder.glob(".*"):
            if _HALF_MADE.fullmatch(path.name) and path.is_file() and time.time() - path.stat().st_mtime > 60:
                path.unlink(missing_ok=True)


_HALF_MADE = re.compile(r"\..+\.[0-9a-f]{8}")


def as_umask_says(folder: Path) -> None:
    """Give all that lies in a folder the modes of new files: safetensors makes its own for their owner alone."""
    mask = os.umask(0o077)
    os.umask(mask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def write_json(path: Path, data: Any, mode: int = 0o666) -> None:
    """Write ``data`` as indented JSON, atomically; ``mode`` as :func:`write_atomic` takes it."""
    text = json.dumps(data, indent=2, ensure_ascii=False, sort_keys=False)
    # Half of a surrogate pair is none of UTF-8; what stands for it then is JSON's own escape.
    write_atomic(path, text.encode("utf-8", "backslashreplace").decode() + "\n", mode)


def read_json(path: Path) -> Any:
    """The JSON in a file, or None where there is no such file.

    Raises:
        RequestError: the file is there and is not JSON, as after a copy that broke off, or cannot be read.
    """
    try:
        return json.loads(small_bytes(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(
            told("A file is damaged."),
            told("{path} cannot be read: {strerror}.", path=path, strerror=error.strerror)
            if isinstance(error, OSError)
            else told("{path} is not JSON: {error}.", path=path, error=error),
            told("Put a good copy in its place, or make anew what it belongs to."),
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


def publish(
    made: Path, target: Path, manifest: dict[str, Any] | None = None, *, as_it_is: bool = False
) -> None:
    """Rename the finished folder ``made`` into place as ``target``, replacing an older one.

    Both must be on one file system. All of it is on the disk before the rename, so that not even a loss of
    power leaves a part. The older folder is set aside first and removed last, so that ``target`` is at every
    moment absent or whole; when the rename fails the older one comes back.

    Args:
        manifest: written into the folder as ``olivepress.json``, with the size and the digest of every other file
            (see :func:`damage`). If None, one that lies there already is kept, and these are added to it.
        as_it_is: it has a manifest of its own that tells of its files, as a whole copy of a published folder.
    """
    with explained(target):
        manifest = read_if_whole(made / MANIFEST) if manifest is None else manifest
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(4) as beside:  # the disk writes while the digests are made
            written = [beside.submit(_to_disk, path) for path in made.rglob("*") if not path.is_symlink()]
            if isinstance(manifest, dict) and not as_it_is:
                seal(made, manifest)
                written.append(beside.submit(_to_disk, made / MANIFEST))
            for each in written:
                each.result()
        for folder in (made, *made.rglob("*")):
            if folder.is_dir() and not folder.is_symlink():
                _to_disk(folder)  # once more: the manifest's name is in it now
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
        _to_disk(target.parent)
        if had_old:
            shutil.rmtree(aside, ignore_errors=True)


def seal(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a folder's manifest, with the size and the digest of every other file below it, by their names.

    Written last of all: a file that is younger than the manifest is not as it was made.
    """
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / MANIFEST]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as several:
        digests = list(several.map(digest, paths))
    files = {
        path.relative_to(folder).as_posix(): [path.stat().st_size, said]
        for path, said in zip(paths, digests, strict=True)
    }
    write_json(folder / MANIFEST, {**manifest, FILES: files})


def damage(folder: Path, *, verify: bool = False) -> list[str]:
    """What of a published folder is not as it was made, a sentence for each file; empty where all is.

    Sizes and times are looked at, and the content of a file that is younger than the manifest, as after a copy. A
    folder without a manifest, or with one that tells of no files, was not made here or is of an older version.

    Args:
        verify: read every file.
    """
    manifest = read_if_whole(folder / MANIFEST)
    files = manifest.get(FILES) if isinstance(manifest, dict) else None
    if not isinstance(files, dict):
        return []
    found: list[str] = []
    made_at = _time_of(folder / MANIFEST)
    for name, said in files.items():
        path = folder / name
        try:
            size, wanted = said
            if not path.is_file():
                found.append(told("{name} is missing.", name=name))
            elif path.stat().st_size != size:
                found.append(
                    told(
                        "{name} has {bytes} bytes, not {size}.",
                        name=name,
                        bytes=path.stat().st_size,
                        size=size,
                    )
                )
            elif (verify or _time_of(path) > made_at) and digest(path) != wanted:
                found.append(told("{name} is not as it was made.", name=name))
        except (OSError, TypeError, ValueError) as error:
            found.append(told("{name} cannot be read: {error}.", name=name, error=error))
    return found


def newest(paths: Iterable[Path]) -> float:
    """When the newest of these files, or of those in these folders, was changed; 0.0 where none is there."""
    times = [0.0]
    for path in paths:
        with suppress(OSError, ValueError):
            times += [each.stat().st_mtime for each in ([path, *path.iterdir()] if path.is_dir() else [path])]
    return max(times)


def refuse_damaged(folder: Path, again: Hint, *, verify: bool = False) -> None:
    """Refuse a published folder that is not as it was made.

    Args:
        again: what makes it again.

    Raises:
        RequestError: it is damaged.
    """
    if found := damage(folder, verify=verify):
        raise RequestError(
            told("What was made is damaged."),
            told("{folder}: {names}", folder=folder, names=listed(found[:5], " ")),
            again,
            code="result.damaged",
        )


def _time_of(path: Path) -> int:
    """When a file was changed last, its content or where it stands."""
    found = path.stat()
    return max(found.st_mtime_ns, found.st_ctime_ns)


def _to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
        refused = refusal(error, path)
        if refused is None:
            raise
        raise refused from error


def refusal(error: OSError, path: Path) -> MachineError | None:
    """The error for what the operating system says when it does not let a file be written; None for anything else.

    Args:
        path: what was to be written, where the system does not say it.
    """
    path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else path
    if error.errno == errno.ENOSPC:
        free = human_bytes(shutil.disk_usage(_existing_parent(path)).free)
        return MachineError(
            told("The disk is full."),
            told("Writing {path} needed more than the {free} that are free.", path=path, free=free),
            room_hint(path.absolute(), told("Nothing half made was kept.")),
            code="disk.full",
        )
    if error.errno in (errno.EDQUOT, errno.EFBIG):
        return MachineError(
            told("A limit on your files is reached."),
            told("{path}: {strerror}.", path=path, strerror=error.strerror),
            told(
                "Free some of what is yours (quota -s shows how much you may have), make the lab on "
                "another disk, or raise the limit on the size of a file (ulimit -f). Nothing half made "
                "was kept."
            ),
            code="disk.quota",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return MachineError(
            told("The folder cannot be written."),
            told("{path}: {strerror}.", path=path, strerror=error.strerror),
            told("Give yourself the right to write there, or use another folder."),
            code="disk.not-writable",
        )
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        folder = error.errno == errno.EISDIR
        return MachineError(
            told("A folder is in the way.") if folder else told("A file is in the way."),
            told("{path}: {strerror}.", path=path, strerror=error.strerror),
            told("Look what it is, and move it elsewhere."),
            code="lab.file",
        )
    return None


def require_disk(place: Path, needed: int, hint: Hint | None = None) -> None:
    """Refuse before the work what would end with a full disk.

    Raises:
        MachineError: fewer than ``needed`` bytes are free below ``place``.
    """
    free = shutil.disk_usage(_existing_parent(place)).free
    if free < needed:
        raise MachineError(
            told("There is not enough disk space."),
            told(
                "About {size} are needed below {place}, {size2} are free.",
                size=human_bytes(needed),
                place=place,
                size2=human_bytes(free),
            ),
            room_hint(place.absolute()) if hint is None else hint,
            code="disk.full",
        )


def _existing_parent(path: Path) -> Path:
    while not path.exists() and path.parent != path:
        path = path.parent
    return path


@lru_cache(maxsize=64)
def _digest_then(path: Path, inode: int, size: int, changed: int) -> str:
    return digest(path)


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
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def content_stamp(path: Path) -> str:
    """What tells a file, or a folder, from another: a digest of its bytes, or :func:`folder_stamp`.

    A process reads a file again only when its size or time has changed.
    """
    if path.is_dir():
        return folder_stamp(path)
    stat = path.stat()
    return _digest_then(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)


def folder_digest(folder: Path) -> str:
    """A digest of the names and bytes below a small folder, the same wherever and whenever it was copied."""
    lines = [
        f"{path.relative_to(folder).as_posix()}\0{content_stamp(path)}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def folder_bytes(folder: Path) -> int:
    """The sum of the sizes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
