"""Ask PyPI for known vulnerabilities of the installed packages, with pip-audit in an environment of its own.

    python tools/audit.py

Ends with 1 where there is one, and with 3 where nobody could be asked: then nothing is known.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

OWN = Path(__file__).resolve().parent.parent / ".cache" / "audit"
PIP_AUDIT = "pip-audit==2.9.0"


def main() -> int:
    """Install pip-audit, run it, and tell what it found."""
    python = OWN / "bin" / "python"
    if not python.exists():
        venv.create(OWN, with_pip=True)
    install = [str(python), "-m", "pip", "install", "-q", "--retries", "0", PIP_AUDIT]
    if subprocess.run(install, check=False, stderr=subprocess.DEVNULL).returncode:
        return unknown("pip-audit could not be installed")
    site = sysconfig.get_path("purelib")
    options = ["--path", site, "--skip-editable", "-f", "json", "--progress-spinner", "off"]
    done = subprocess.run(
        [str(OWN / "bin" / "pip-audit"), *options], check=False, capture_output=True, text=True
    )
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return unknown((done.stderr.strip() or "pip-audit said nothing").splitlines()[-1])
    asked = [each for each in packages if "vulns" in each]
    if not asked:
        return unknown("PyPI's advisories could not be had")
    for each in asked:
        for found in each["vulns"]:
            fixed = ", ".join(found["fix_versions"]) or "no version yet"
            print(f"{each['name']} {each['version']}: {found['id']}, mended in {fixed}")
    silent = len(packages) - len(asked)
    print(f"{len(asked)} packages were asked for" + (f"; {silent} are not known there" if silent else ""))
    return any(each["vulns"] for each in asked)


def unknown(why: str) -> int:
    """Say that nothing was audited, and why."""
    print(f"{why} (is there a network?): nothing was audited", file=sys.stderr)
    return 3


if __name__ == "__main__":
    sys.exit(main())
