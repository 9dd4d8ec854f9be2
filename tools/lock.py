"""Write requirements.lock: the packages of constraints.txt with the hashes of their files for this platform.

    python tools/lock.py

pip chooses the file of each package as it would install it, and downloads nothing. ``LOCKED=1 make setup-dev``
installs these files and no others. torch is left out: set-up chooses its build by the machine.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAD = """\
# Made by tools/lock.py from constraints.txt, for CPython {python} on {system}; on another one, make it anew.
"""


def main() -> int:
    """Ask pip, and write the file."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line for line in lines if "==" in line and not line.startswith(("#", "torch=="))]
    with tempfile.TemporaryDirectory() as folder:
        (names := Path(folder) / "wanted.txt").write_text("\n".join(wanted), encoding="utf-8")
        report = Path(folder) / "report.json"
        told = ["-q", "--no-deps", "--ignore-installed", "--report", str(report), "-r", str(names)]
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--dry-run", *told],
            check=False,
            stdout=subprocess.DEVNULL,
        )
        if done.returncode:
            print("pip could not look the packages up; requirements.lock is as it was", file=sys.stderr)
            return 1
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    parts = [
        f"{each['metadata']['name']}=={each['metadata']['version']}"
        f" --hash=sha256:{each['download_info']['archive_info']['hashes']['sha256']}"
        for each in found
    ]
    system = f"{platform.system()} {platform.machine()}"
    python = ".".join(platform.python_version_tuple()[:2])
    text = HEAD.format(python=python, system=system) + "\n".join(sorted(parts, key=str.lower)) + "\n"
    (ROOT / "requirements.lock").write_text(text, encoding="utf-8")
    print(f"requirements.lock: {len(parts)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
