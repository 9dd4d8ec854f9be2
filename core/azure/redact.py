"""Secrets out of text: shared access signatures, account keys, tokens and client secrets.

Azure's exceptions quote URLs with their signature and whole response bodies. Whatever of them goes
into a log, an event or a report passes through here first.
"""

from __future__ import annotations

import re

from core.text import without_logins

HIDDEN = "***"

_PATTERNS = (
    # The signature of a shared access signature, plain or percent-encoded.
    (re.compile(r"(?i)\b(sig=)[^&\s\"'<>]+"), r"\1" + HIDDEN),
    # Any JSON Web Token, and what follows Bearer or SharedKey in a header.
    (re.compile(r"\beyJ[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]*){0,2}"), HIDDEN),
    (re.compile(r"(?i)\b(bearer|sharedkey)\s+[A-Za-z0-9._~+/=:-]{8,}"), r"\1 " + HIDDEN),
    # Named values in JSON, in forms and in connection strings.
    (
        re.compile(
            r"(?i)([\"']?(?:access_token|refresh_token|id_token|client_secret|client_assertion|device_code|"
            r"sastoken|sasuri|accountkey|primarykey|password|secret)[\"']?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s,;&}]+)"
        ),
        r"\1" + HIDDEN,
    ),
    # An account key standing alone: 64 bytes as base64.
    (re.compile(r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{86}==(?![A-Za-z0-9+/=])"), HIDDEN),
)


def redact(text: str) -> str:
    """The text with every secret that can be told by its form replaced by ``***``."""
    text = without_logins(text)
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text
