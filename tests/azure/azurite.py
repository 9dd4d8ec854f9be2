"""Azurite, Microsoft's emulator of Blob Storage, as a child process on a free port."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

ACCOUNT = "olivestore"
KEY = base64.b64encode(bytes(range(64))).decode()
ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("OLIVEPRESS_AZURITE") or ROOT / ".cache" / "azurite")


def missing() -> str:
    """Why Azurite cannot run here, or an empty string."""
    if not shutil.which("node"):
        return "node is not installed (Azurite needs it)"
    if not _program().is_file():
        return "Azurite is not installed; run tools/azurite.sh"
    return ""


def _program() -> Path:
    return FOLDER / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"


class Azurite:
    """A running emulator with one account; with ``cert`` and ``key`` it speaks TLS."""

    def __init__(self, folder: Path, cert: Path | None = None, key: Path | None = None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = ["node", str(_program()), "--blobHost", "127.0.0.1", "--blobPort", str(self.port)]
        command += ["--location", str(folder), "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
        if cert and key:
            command += ["--cert", str(cert), "--key", str(key), "--oauth", "basic"]
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "azurite.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env={"PATH": os.environ["PATH"], "HOME": str(folder), "AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait()

    def _wait(self) -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if self._process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)  # between two looks whether it listens
        self.close()
        raise RuntimeError(f"Azurite did not start: {self.log.read_text(errors='replace')[-2000:]}")

    def close(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)
