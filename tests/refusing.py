"""Refuse and write down every connection that a Python process, or one that it starts, would make."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.telemetry import OFF

ROOT = Path(__file__).resolve().parent.parent

WATCH = """
import os, sys

TARGETS = {  # the audit event, and which of its arguments names the other side
    "socket.connect": 1, "socket.sendto": 1, "socket.sendmsg": 1, "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0, "socket.gethostbyaddr": 0,
}

def refuse(event, args):
    if event not in TARGETS:
        return
    target = args[TARGETS[event]]
    if target is None or (event == "socket.connect" and isinstance(target, (str, bytes))):
        return  # a pipe between two processes of this machine
    handle = os.open(os.environ["REFUSED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{event} {target!r} {sys.argv[:3]}\\n".encode())
    os.close(handle)
    raise ConnectionRefusedError(111, "refused by the test")

sys.addaudithook(refuse)
"""
"""A ``sitecustomize``: Python loads it before anything else, in the processes that are started as well."""


def refuse(patch: pytest.MonkeyPatch, folder: Path) -> Path:
    """From now on, for processes that are started; as for somebody who has switched nothing off.

    Returns:
        The file in which the connections stand that were refused.
    """
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(WATCH, encoding="utf-8")
    path = folder / "refused"
    path.touch()
    patch.setenv("REFUSED", str(path))
    patch.setenv("PYTHONPATH", os.pathsep.join((str(folder), str(ROOT))))
    for name in (*OFF, "HF_HUB_OFFLINE", "CI"):
        patch.delenv(name, raising=False)
    return path
