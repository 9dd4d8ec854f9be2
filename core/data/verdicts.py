"""Yes and no, in the forms in which records say whether something is good."""

from __future__ import annotations

from typing import Any


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_YES = _words(
    """true t yes y 1 1.0 +1 good chosen desirable positive accept accepted approve approved like liked
    up thumbs_up correct right pass 👍 đúng có tốt درست بله خوب 是 好"""
)
_NO = _words(
    """false f no n 0 0.0 -1 -1.0 bad rejected undesirable negative reject dislike disliked down thumbs_down
    incorrect wrong fail 👎 sai không xấu نادرست خیر بد 否 坏"""
)


def verdict(value: Any) -> bool | None:
    """Whether a value says yes (`true`, 1, "good", …) or no (`false`, 0, -1, "bad", …); None: neither."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return True if value == 1 else False if value in (0, -1) else None
    if isinstance(value, str):
        word = "_".join(value.casefold().split())
        return True if word in _YES else False if word in _NO else None
    return None
