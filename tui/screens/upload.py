"""Step 7: the result, registered with a version and tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tui.screens.stage import StageScreen


class UploadScreen(StageScreen):
    """Where to, under which name; nothing leaves before Upload is pressed."""

    NAME = "upload"
    CSS_PATH: ClassVar[list[str]] = ["stage.tcss", "upload.tcss"]  # type: ignore[assignment]
    MAIN: ClassVar[Sequence[str]] = (
        "upload.subscription",
        "upload.resource_group",
        "upload.workspace",
        "upload.name",
        "upload.version",
    )
    MORE: ClassVar[Sequence[str]] = ("upload.tags",)
    LONG: ClassVar[Sequence[str]] = ("upload.subscription",)

    def advice(self, values: Mapping[str, Any]) -> str:
        empty = [key.split(".")[1].replace("_", " ") for key in self.MAIN[:3] if not values[key]]
        if empty:
            return f"An Azure Machine Learning workspace is needed; still empty: {', '.join(empty)}."
        return "What would be sent can be seen first with: " + self.session.command("upload", "--dry-run")
