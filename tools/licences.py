"""List the licences of all packages that OlivePress brings along, as they say themselves; needs no network.

    python tools/licences.py

Ends with 1 where a package that users install says nothing.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement


def needed(name: str, found: dict[str, str], extra: str = "") -> None:
    """Collect the licences of a package and of what it needs on this machine into ``found``."""
    try:
        package = distribution(name)
    except PackageNotFoundError:  # of another platform, or optional
        return
    key = re.sub(r"[-_.]+", "-", package.metadata["Name"]).lower()
    if f"{key}[{extra}]" in found or (not extra and key in found):
        return
    found[f"{key}[{extra}]" if extra else key] = licence(package.metadata)
    for line in package.requires or ():
        need = Requirement(line)
        if need.marker is None or need.marker.evaluate({"extra": extra}):
            for each in ("", *need.extras):
                needed(need.name, found, each)


def licence(told: object) -> str:
    """The licence in a package's metadata: an expression, else its classifiers, else a short text."""
    get = told.get_all  # type: ignore[attr-defined]
    expression = next(iter(get("License-Expression") or ()), "")
    classes = [
        each.rpartition(" :: ")[2] for each in get("Classifier") or () if each.startswith("License ::")
    ]
    text = next(iter(get("License") or ()), "").strip().split("\n", maxsplit=1)[0]
    return str(expression or ", ".join(each for each in classes if each != "OSI Approved") or text[:60])


def main() -> int:
    """Print them."""
    found: dict[str, str] = {}
    needed("olivepress", found)
    listed = {name: words for name, words in sorted(found.items()) if "[" not in name}
    for name, words in listed.items():
        print(f"{name} {distribution(name).version}: {words or 'says nothing'}")
    silent = [name for name, words in listed.items() if not words]
    print(f"{len(listed)} packages" + (f"; these say nothing: {', '.join(silent)}" if silent else ""))
    return bool(silent)


if __name__ == "__main__":
    sys.exit(main())
