"""Which rows are held out: chosen by what they say and a seed, not by where they stand."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def assign(prompts: Sequence[str], fraction: float, seed: int) -> list[bool]:
    """True for each row that is held out.

    Rows with the same prompt stay together; the order of the rows does not matter.
    """
    groups: dict[bytes, list[int]] = {}
    for index, prompt in enumerate(prompts):
        key = hashlib.sha256(f"{seed}\0{' '.join(prompt.casefold().split())}".encode()).digest()
        groups.setdefault(key, []).append(index)
    wanted = round(fraction * len(prompts))
    result = [False] * len(prompts)
    if len(groups) < 2:
        return result
    for key in sorted(groups)[:-1]:
        if wanted <= 0:
            break
        for index in groups[key]:
            result[index] = True
        wanted -= len(groups[key])
    return result
