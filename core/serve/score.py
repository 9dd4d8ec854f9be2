"""The scoring script of a managed online endpoint: OlivePress's own server, asked on the endpoint's one route.

It stands alone beside the wheel: Azure ML's inference server calls :func:`init` once, and :func:`run` for each request.
"""

from __future__ import annotations

import glob
import os
import sys
import tempfile
import zipfile
from typing import Any

_asked: list[Any] = []


def init() -> None:
    """Load the registered model."""
    here = os.path.dirname(os.path.abspath(__file__))
    for wheel in glob.glob(os.path.join(here, "olivepress-*.whl")):
        code = tempfile.mkdtemp(prefix="olivepress-")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(code)
        sys.path.insert(0, code)
    from core.serve.endpoint import Endpoint

    _asked.append(Endpoint(os.environ["AZUREML_MODEL_DIR"]))


def run(raw_data: str) -> Any:
    """Answer one request, a chat completion in OpenAI's form."""
    status, answer = _asked[0].ask(raw_data)
    try:
        from azureml_inference_server_http.api.aml_response import AMLResponse
    except ImportError:
        return answer
    return AMLResponse(answer, status, json_str=True)
