"""Questions to a model hub about a model, without fetching it: two small requests, with a short limit.

Source: the hub's REST interface, ``GET /api/models/{id}`` and ``GET /{id}/resolve/{revision}/{file}``.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.language import told

LIMIT_S = 3.0


@dataclass(frozen=True)
class HubAnswer:
    """What the hub (or its local cache) told.

    Attributes:
        state: ``ok``, ``missing``, ``gated``, ``denied``, ``unreachable`` or ``offline``.
        config: the model's ``config.json``, if it could be had.
        licence: as the model card names it; empty if it does not.
        gated: whether the owner must grant access.
        detail: the reason, where it is not ``ok``.
    """

    state: str
    config: dict[str, Any] | None = None
    licence: str = ""
    gated: bool = False
    detail: str = ""


def endpoint() -> str:
    """The hub that ``HF_ENDPOINT`` names, or the public one."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def offline() -> bool:
    """Whether the environment forbids asking the hub."""
    return any(
        os.environ.get(name, "").lower() in ("1", "true", "yes", "on")
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def token() -> str:
    """The hub token of the usual places; empty if there is none."""
    found = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
    if found:
        return found.strip()
    try:
        return Path(os.environ.get("HF_TOKEN_PATH") or _home() / "token").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _home() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("HF_HOME") or Path(cache) / "huggingface")


def cached_config(model: str) -> dict[str, Any] | None:
    """``config.json`` of a model that was downloaded before."""
    name = model.split("@")[0].replace("/", "--")
    root = Path(os.environ.get("HF_HUB_CACHE") or _home() / "hub") / f"models--{name}" / "snapshots"
    for path in sorted(root.glob("*/config.json"), key=lambda found: found.stat().st_mtime, reverse=True):
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(config, dict):
            return config
    return None


def ask(model: str) -> HubAnswer:
    """What the hub tells of ``owner/name`` or ``owner/name@revision``."""
    cached = cached_config(model)
    if offline():
        detail = (
            told("HF_HUB_OFFLINE is set")
            if cached
            else told("HF_HUB_OFFLINE is set and the model was not downloaded before")
        )
        return HubAnswer("ok" if cached else "offline", cached, detail=detail)
    name, _, revision = model.partition("@")
    try:
        info = _get(f"/api/models/{name}")
        gated = bool(info.get("gated"))
        card = info.get("cardData") or {}
        licence = str(card.get("license_name") or card.get("license") or "")
    except urllib.error.HTTPError as error:
        if error.code in (401, 403, 404):
            state = "missing" if token() or error.code == 404 else "denied"
            return HubAnswer(
                state,
                cached,
                detail=told(
                    "{endpoint} answered {code} for {name}", endpoint=endpoint(), code=error.code, name=name
                ),
            )
        return HubAnswer(
            "unreachable",
            cached,
            detail=told("{endpoint} answered {code}", endpoint=endpoint(), code=error.code),
        )
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return HubAnswer(
            "ok" if cached else "unreachable",
            cached,
            detail=told("{endpoint}: {reason}", endpoint=endpoint(), reason=reason),
        )
    try:
        config = _get(f"/{name}/resolve/{urllib.parse.quote(revision or 'main', safe='')}/config.json")
    except urllib.error.HTTPError as error:
        state = "gated" if error.code in (401, 403) else "missing"
        return HubAnswer(
            state,
            cached,
            licence,
            gated,
            told("{endpoint} answered {code} for its config.json", endpoint=endpoint(), code=error.code),
        )
    except (OSError, ValueError) as error:
        return HubAnswer(
            "unreachable",
            cached,
            licence,
            gated,
            told("{endpoint}: {error}", endpoint=endpoint(), error=error),
        )
    return HubAnswer("ok", config, licence, gated)


def _get(path: str) -> dict[str, Any]:
    headers = {"User-Agent": "olivepress"}
    if token():
        headers["Authorization"] = f"Bearer {token()}"
    request = urllib.request.Request(endpoint() + path, headers=headers)
    with urllib.request.build_opener(_Redirect()).open(request, timeout=LIMIT_S) as answer:
        data = json.loads(answer.read(4 << 20))
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")
    return data


class _Redirect(urllib.request.HTTPRedirectHandler):
    """Follows to another host without the token, which is for the hub alone."""

    def redirect_request(self, req: urllib.request.Request, *more: Any) -> urllib.request.Request | None:
        following = super().redirect_request(req, *more)
        if following is not None and _origin(following.full_url) != _origin(req.full_url):
            following.remove_header("Authorization")
        return following


def _origin(url: str) -> tuple[str, str]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.netloc
