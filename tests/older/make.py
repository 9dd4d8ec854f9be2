"""Make ``lab-COMMIT.tar.xz``, a tiny lab as the code of an older commit makes it.

Its model is not kept: ``make_tiny("llama", lab / "model", tie=True)`` makes it again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INSIDE = """
import json, pathlib, sys
from core import Lab
from tests.tiny_models import make_tiny

root = pathlib.Path("lab").resolve()
make_tiny("llama", root / "model", tie=True)
rows = [{"prompt": f"Where is {name}?", "response": f"{name} is good."} for name in "abcdefghijklmnop"]
(root / "records.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
lab = Lab.create(root, model="model", data="records.jsonl", settings={
    "quantize.algorithm": "rtn", "quantize.group_size": 32, "finetune.rank": 4, "finetune.batch_size": 4,
    "finetune.steps": 20, "data.max_seq_len": 128, "chat.max_new_tokens": 8,
})
for stage in ("quantize", "finetune", "optimize"):
    lab.run(stage)
with lab.chat() as chat:
    chat.ask("Where is a?")
"""


def main(commit: str, *packages: str) -> None:
    """Take the code of a commit, and let it make the lab.

    Args:
        packages: what that commit needs in other versions than are here, ``name==version``.
    """
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # its name stands in the logs
        code = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x"], cwd=name, input=code, check=True)
        other = f"{name}/.packages"
        if packages:
            install = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", other, *packages]
            subprocess.run([sys.executable, *install], check=True)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((other, name))}
        subprocess.run([sys.executable, "-c", INSIDE], cwd=name, check=True, env=environment)
        made = Path(__file__).with_name(f"lab-{commit}.tar.xz")
        subprocess.run(["tar", "-cJf", str(made), "--exclude=lab/model", "lab"], cwd=name, check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
