"""The server behind an endpoint of Azure ML: the registered model's folder as a lab, asked in OpenAI's form."""

from __future__ import annotations

import http.client
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from core.azure.download import recipe_from_elsewhere
from core.errors import Do, RequestError
from core.files import write_atomic
from core.folder import RECIPE_NAME, LabFolder
from core.lab import Lab
from core.language import told
from core.recipe import Recipe, recipe_text
from core.serve.server import ModelServer

LOADING_S = 600.0
"""Seconds that a model may take to load."""


class Endpoint:
    """A running server of one registered model, for one process that hands it requests."""

    def __init__(self, folder: str | Path) -> None:
        """Make a lab around the model and load it.

        Args:
            folder: what Azure ML has mounted; the model lies in it or in a folder below.

        Raises:
            RequestError: there is no model.
            LabError: it cannot be loaded.
        """
        model = next((path.parent for path in sorted(Path(folder).rglob("genai_config.json"))), None)
        if model is None:
            raise RequestError(
                told("There is no ONNX model in the folder."),
                told("{folder} has no genai_config.json.", folder=folder),
                told("Register the model: {upload}", upload=Do("upload")),
                code="upload.nothing",
            )
        lab = LabFolder(Path(tempfile.mkdtemp(prefix="olivepress-")) / "model")
        recipe = Recipe()
        written = model / RECIPE_NAME
        if written.is_file():
            recipe, _ = recipe_from_elsewhere(written.read_text(encoding="utf-8", errors="replace"))
        shutil.copytree(model, lab.onnx_dir)
        (lab.onnx_dir / RECIPE_NAME).unlink(missing_ok=True)
        write_atomic(lab.recipe_path, recipe_text(recipe))
        self._root = lab.root.parent
        self._server = ModelServer(Lab.open(lab.root), port=0)
        self._server.wait_ready(LOADING_S)

    def ask(self, body: str) -> tuple[int, Any]:
        """One chat completion: HTTP status and answer. What asks for a stream gets the whole answer at once."""
        try:
            asked = json.loads(body)
        except ValueError:
            asked = None
        if isinstance(asked, dict):
            asked["stream"] = False
            asked.pop("stream_options", None)
            asked.setdefault("model", self._server.models()[-1])
        line = http.client.HTTPConnection("127.0.0.1", self._server.port)
        try:
            data = json.dumps(asked).encode()
            line.request("POST", "/v1/chat/completions", data, {"Content-Type": "application/json"})
            answer = line.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            line.close()

    def close(self) -> None:
        """End the server and remove its lab."""
        self._server.stop()
        shutil.rmtree(self._root, ignore_errors=True)
