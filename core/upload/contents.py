"""What an upload holds: the files of ``models/onnx``, the recipe, the report; and what is said of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.azure.download import check_names
from core.errors import Do, RequestError, StageError, with_told
from core.files import MANIFEST, folder_stamp, read_if_whole, read_json, write_json
from core.folder import RECIPE_NAME, REPORT_NAME, REPORT_PAGE_NAME, LabFolder, adapter_names
from core.language import told
from core.model.inside import refuse_links
from core.recipe import Recipe, UploadSection, recipe_text
from core.version import __version__

PREFIX = "olivepress"
"""The folder of the datastore below which every upload lies, under the digest of its content."""
READ = 1 << 20


@dataclass(frozen=True)
class Item:
    """A file to send.

    Attributes:
        name: its path in the model, with forward slashes.
        size: bytes.
        sha256: of its content; empty until :func:`digested`.
        path: where it lies; None for one that is made here.
        data: the bytes of one that is made here.
        stamp: modification time in ns, to see a change while it is being sent.
    """

    name: str
    size: int
    sha256: str = ""
    path: Path | None = None
    data: bytes = field(default=b"", repr=False)
    stamp: int = 0


@dataclass(frozen=True)
class Contents:
    """All that is sent, by name, and what of the folder is not, with the reason."""

    items: tuple[Item, ...]
    left_out: tuple[tuple[str, str], ...]

    @property
    def total(self) -> int:
        """Bytes."""
        return sum(item.size for item in self.items)

    def as_dict(self) -> dict[str, Any]:
        """What goes and what does not, for ``--json``."""
        return {
            "contents": [{"name": item.name, "bytes": item.size} for item in self.items],
            "left_out": [with_told({"name": name, "why": why}) for name, why in self.left_out],
        }

    @property
    def digest(self) -> str:
        """SHA-256 over the names and digests of all files: the address of this content."""
        lines = (f"{item.sha256}  {item.name}\n" for item in sorted(self.items, key=lambda item: item.name))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def prefix(self) -> str:
        """The folder in the datastore."""
        return f"{PREFIX}/{self.digest[:32]}"


def collect(lab: LabFolder, recipe: Recipe) -> Contents:
    """The files that an upload of this lab sends. Nothing is read but their sizes.

    Every regular file of ``models/onnx`` goes, hidden ones and ignore files included; links within it are
    followed.

    Raises:
        RequestError: there is no ONNX model, a link leads out of it or nowhere, or a name is one that not every
            system can hold.
    """
    folder = lab.onnx_dir
    if not (folder / "genai_config.json").is_file():
        raise RequestError(
            told("There is nothing to upload yet."),
            told("{folder} has no ONNX model.", folder=folder),
            told("Run: {run}", run=Do.of("run", lab.root, "optimize")),
            code="upload.nothing",
        )
    refuse_links(folder, below=True)
    items: list[Item] = []
    left_out: list[tuple[str, str]] = []
    for path in _walk(folder):
        name = path.relative_to(folder).as_posix()
        try:
            name.encode()
            found = path.stat()
        except UnicodeEncodeError:
            raise RequestError(
                told("A file's name is not UTF-8."),
                told("{name!r} in {folder}.", name=name, folder=folder),
                told("Rename it."),
                code="upload.file",
            ) from None
        except OSError as error:
            raise RequestError(
                told("A file cannot be read."),
                told("{path}: {strerror}.", path=path, strerror=error.strerror),
                told("Make the model again, or mend the link."),
                code="upload.file",
            ) from None
        if stat.S_ISREG(found.st_mode):
            items.append(Item(name, found.st_size, path=path, stamp=found.st_mtime_ns))
        elif not stat.S_ISDIR(found.st_mode):
            left_out.append((name, told("not a file")))
    taken = {item.name for item in items}
    for name, data in _made(lab, recipe):
        if name in taken:
            left_out.append((name, told("the model has a file of that name already")))
        else:
            items.append(Item(name, len(data), hashlib.sha256(data).hexdigest(), data=data))
    if not lab.report_path.is_file():
        left_out.append((REPORT_NAME, told("not written yet")))
    left_out.append((told("models/quantized, models/finetuned"), told("not needed to run the model")))
    check_names(item.name for item in items)
    return Contents(tuple(sorted(items, key=lambda item: item.name)), tuple(left_out))


def _walk(folder: Path) -> Iterator[Path]:
    seen: set[tuple[int, int]] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        here = os.stat(root)
        if (here.st_dev, here.st_ino) in seen:  # a link back to a folder above
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders.sort()
        yield from (Path(root) / name for name in sorted(names))


def _made(lab: LabFolder, recipe: Recipe) -> Iterator[tuple[str, bytes]]:
    # Without the [upload] table: what an upload writes there must not change what is uploaded.
    plain = dataclasses.replace(recipe, upload=UploadSection(name=recipe.upload.name))
    yield RECIPE_NAME, recipe_text(plain).encode()
    if lab.report_path.is_file():
        yield (
            REPORT_NAME,
            report_to_send(lab.report_path.read_text(encoding="utf-8", errors="replace")).encode(),
        )
    if lab.report_page_path.is_file():
        page = lab.report_page_path.read_text(encoding="utf-8", errors="replace")
        yield REPORT_PAGE_NAME, _undated(page).encode()


def report_to_send(text: str) -> str:
    """The report without its part on uploads and its date, for the same reason as the recipe's."""
    from core.report import with_upload

    return with_upload(_undated(text), None)


def _undated(text: str) -> str:
    return re.sub(r" \d{4}-\d\d-\d\d(T[0-9:-]+Z|, [0-9:]+ UTC)", "", text, count=1)


def digested(
    contents: Contents, cache: Path, progress: Callable[[int], None], check: Callable[[], object]
) -> Contents:
    """The same with the digest of each file, read or remembered from the last time it had that size and age.

    Args:
        cache: a JSON file that remembers.
        progress: gets the bytes done so far.
        check: called often; raises to stop.

    Raises:
        StageError: a file cannot be read.
    """
    known = read_if_whole(cache)
    known = known if isinstance(known, dict) else {}
    kept: dict[str, Any] = {}
    items = []
    done = 0
    for item in contents.items:
        check()
        if item.path is not None:
            key = [item.size, item.stamp]
            before = known.get(item.name)
            if isinstance(before, list) and before[:2] == key and isinstance(before[2], str):
                sha256 = before[2]
                done += item.size
            else:
                sha256 = _digest(item.path, done, progress, check)
                done += item.size
            kept[item.name] = [*key, sha256]
            item = dataclasses.replace(item, sha256=sha256)
        items.append(item)
        progress(done)
    if kept != known:
        write_json(cache, kept)
    return dataclasses.replace(contents, items=tuple(items))


def _digest(path: Path, before: int, progress: Callable[[int], None], check: Callable[[], object]) -> str:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(READ))
    done = 0
    try:
        with path.open("rb", buffering=0) as stream:
            while count := stream.readinto(buffer):
                digest.update(buffer[:count])
                done += count
                if done % (16 * READ) < READ:
                    check()
                    progress(before + done)
    except OSError as error:
        raise unreadable(path, error) from None
    return digest.hexdigest()


def unreadable(path: Path, error: OSError) -> StageError:
    """The error for a file that could not be read in the middle of the work."""
    return StageError(
        told("A file of the model cannot be read any more."),
        told("{path}: {strerror}.", path=path, strerror=error.strerror or error),
        told("See that its disk is there, then run the upload again; what has arrived is kept."),
        code="upload.file",
    )


def described(
    lab: LabFolder, recipe: Recipe, contents: Contents
) -> tuple[dict[str, str], dict[str, str], str]:
    """Tags, properties and a description for the registry, from what the stages left in their manifests.

    Raises:
        RequestError: a manifest is damaged.
    """
    from core.optimize.stage import checkpoint_stamp

    onnx = read_json(lab.onnx_dir / MANIFEST) or {}
    made_from = onnx.get("fingerprint") or {}
    adapter = lab.finetuned_dir(made_from.get("adapter") or recipe.finetune.adapter)
    tuned = read_json(adapter / MANIFEST) or {}
    quantized = read_json(lab.quantized_dir / MANIFEST) or {}
    algorithm = recipe.quantize.algorithm
    # A folder that was made anew since tells of another model than this one.
    if quantized and (made_from.get("base") or {}).get("checkpoint") not in (
        None,
        checkpoint_stamp(lab.quantized_dir),
    ):
        quantized, algorithm = {}, "unknown"
    if tuned and made_from.get("adapter_stamp") not in (None, folder_stamp(adapter)):
        tuned = {}
    adapters = adapter_names(lab.onnx_dir)
    # What was made, whatever the recipe says by now.
    made = onnx.get("result") or {}
    facts = onnx.get("model") or quantized.get("model") or {}
    source = str(facts.get("source") or recipe.model.source)
    how = (quantized.get("fingerprint") or {}).get("quantize") or {}
    algorithm = str(how.get("algorithm") or algorithm)
    tags = {
        "made_with": "olivepress",
        "base_model": source,
        "algorithm": algorithm,
        "adapter": ", ".join(adapters) or "none",
        "device": str(made.get("device") or recipe.optimize.device),
        "precision": str(made.get("precision") or recipe.optimize.precision),
    }
    properties = {
        "olivepress.content": contents.digest,
        "olivepress.version": __version__,
        "olivepress.bytes": str(contents.total),
        "olivepress.files": str(len(contents.items)),
    }
    records = tuned.get("fingerprint", {}).get("records")
    if records:
        properties["olivepress.data"] = records
    loss = tuned.get("result", {}).get("eval_loss_tuned")
    if loss is not None:
        properties["olivepress.eval_loss"] = f"{loss:.6g}"
    packages: dict[str, str] = {}
    for manifest in (quantized, tuned, onnx):
        packages |= manifest.get("fingerprint", {}).get("versions", {})
    if packages:
        properties["olivepress.packages"] = json.dumps(packages, sort_keys=True)
    tags.update(recipe.upload.tags)
    text = told(
        "{source}, {algorithm}, adapter {adapter}; OlivePress {version}.",
        source=source,
        algorithm=algorithm,
        adapter=tags["adapter"],
        version=__version__,
    )
    return {key: value[:256] for key, value in tags.items()}, properties, text[:1000]
