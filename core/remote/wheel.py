"""This very program as a wheel, to go along with a job: made of the files that run here, always the same bytes."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from core.resources import data_dir
from core.version import __version__

NAME = f"olivepress-{__version__}-py3-none-any.whl"

_INFO = f"olivepress-{__version__}.dist-info"
_TEXTS = {
    "METADATA": f"Metadata-Version: 2.1\nName: olivepress\nVersion: {__version__}\n",
    "WHEEL": "Wheel-Version: 1.0\nGenerator: olivepress\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "entry_points.txt": "[console_scripts]\nolivepress = core.cli:script\n",
}


@cache
def own_wheel() -> bytes:
    """The wheel. What it needs is no part of it: the environment of the job has that."""
    made = io.BytesIO()
    record = []
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in _files():
            # Weights do not get smaller. Dated 1980, whenever it is made.
            how = zipfile.ZIP_STORED if name.endswith(".safetensors") else zipfile.ZIP_DEFLATED
            archive.writestr(zipfile.ZipInfo(name), data, how)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
            record.append(f"{name},sha256={digest},{len(data)}\n")
        record.append(f"{_INFO}/RECORD,,\n")
        archive.writestr(zipfile.ZipInfo(f"{_INFO}/RECORD"), "".join(record), zipfile.ZIP_DEFLATED)
    return made.getvalue()


def _files() -> Iterator[tuple[str, bytes]]:
    packages = Path(__file__).resolve().parents[2]
    for folder, inside in (
        (packages / "core", "core"),
        (packages / "tui", "tui"),
        (data_dir(), "core/_data"),
    ):
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            hidden = any(part.startswith(".") or part in ("__pycache__", "_data") for part in name.split("/"))
            if path.is_file() and not hidden:
                yield f"{inside}/{name}", path.read_bytes()
    for name, text in _TEXTS.items():
        yield f"{_INFO}/{name}", text.encode()
