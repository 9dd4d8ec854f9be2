"""Upload speed and memory: ``olivepress upload`` beside ``MLClient.models.create_or_update``, on the same Azurite.

Run from a checkout with Azurite installed (``tools/azurite.sh``):

    python -m benchmarks.upload [--large MIB] [--small COUNT] [--rounds N]

Each upload is a process of its own with new random content; both take turns, and the median of the rounds
is printed. The held line gives every connection 10 MB/s. Times are those of the whole call, digests and
registration included; importing azure-ai-ml is done before, for both.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MIB = 1 << 20
HELD = 10e6
SMALL = 128 << 10


def child(kind: str, root: Path) -> None:
    """One upload, in its own process; prints seconds and the peak of resident memory."""
    import azure.ai.ml  # loading takes seconds and is not what is measured
    from azure.ai.ml.entities import Model

    from core.azure.signin import current
    from core.lab import Lab

    lab = Lab.open(root)
    upload = lab.recipe.upload
    began = time.monotonic()
    if kind == "olivepress":
        from core.azure.retry import Stop
        from core.events import Reporter
        from core.upload import stage

        stage.upload(lab.folder, lab.recipe, Reporter(), Stop())
    else:
        client = azure.ai.ml.MLClient(
            current().credential, upload.subscription, upload.resource_group, upload.workspace
        )
        client.models.create_or_update(
            Model(path=str(lab.folder.onnx_dir), name="sdk", version=str(time.time_ns()))
        )
    seconds = time.monotonic() - began
    status = Path("/proc/self/status").read_text()
    print(json.dumps({"seconds": seconds, "peak": int(status.split("VmHWM:")[1].split()[0]) * 1024}))


def make(root: Path, large: int, small: int) -> None:
    """A lab with one large file or many small ones of random bytes, and no ignore file (it would stop the SDK)."""
    from core.lab import Lab
    from tests.azure.fake import SUBSCRIPTION

    lab = Lab.create(
        root,
        settings={
            "upload.subscription": SUBSCRIPTION,
            "upload.resource_group": "rg-travel",
            "upload.workspace": "travel-ws",
            "upload.name": "bench",
        },
    )
    folder = lab.folder.onnx_dir
    folder.mkdir(parents=True)
    source = random.Random(time.time_ns())
    (folder / "genai_config.json").write_text("{}")
    if large:
        with (folder / "model.onnx.data").open("wb") as stream:
            for _ in range(large):
                stream.write(source.randbytes(MIB))
    for number in range(small):
        (folder / f"part-{number:04d}.bin").write_bytes(source.randbytes(SMALL))


def once(kind: str, root: Path, environment: dict[str, str]) -> dict[str, Any]:
    """One upload; its figures."""
    command = [sys.executable, "-m", "benchmarks.upload", "--child", kind, str(root)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise SystemExit(f"{kind} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--large", type=int, default=256, metavar="MIB", help="size of the one large file")
    parser.add_argument(
        "--small", type=int, default=500, metavar="COUNT", help="number of small files, 128 KiB each"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=2, metavar=("KIND", "LAB"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], Path(options.child[1]))
        return
    from tests.azure import azurite
    from tests.azure.certs import make_certificates
    from tests.azure.fake import TENANT, FakeAzure
    from tests.azure.proxy import ConnectProxy

    if reason := azurite.missing():
        raise SystemExit(reason)
    work = Path(tempfile.mkdtemp(prefix="olivepress-upload-"))
    ca, cert, key = make_certificates(work / "certs")
    fake = FakeAzure(cert, key)
    hosts = ("management.azure.com", "login.microsoftonline.com")
    proxy = ConnectProxy(dict.fromkeys(hosts, fake.port))
    environment = {
        **os.environ,
        "HTTPS_PROXY": proxy.url,
        "NO_PROXY": "",
        "REQUESTS_CA_BUNDLE": str(ca),
        "HOME": str(work),
        "AZURE_CLIENT_ID": "55555555-5555-5555-5555-555555555555",
        "AZURE_TENANT_ID": TENANT,
        "AZURE_CLIENT_SECRET": fake.client_secret,
    }
    try:
        print("| content | line | | seconds | MB/s | peak MB |\n|---|---|---|---|---|---|")
        for what, large, small in (
            (f"one file of {options.large} MiB", options.large, 0),
            (f"{options.small} files of 128 KiB", 0, options.small),
        ):
            size = large * MIB + small * SMALL
            for line, rate in (("free", None), ("10 MB/s a connection", HELD)):
                proxy.rate = rate
                figures: dict[str, list[dict[str, Any]]] = {"olivepress": [], "MLClient": []}
                for number in range(options.rounds):
                    # In turns, so that neither always finds what the other has warmed up or filled.
                    for kind in sorted(figures, reverse=bool(number % 2)):
                        root = work / "lab"
                        make(root, large, small)
                        # A new one each time: Azurite gets slower with every blob that it holds.
                        emulator = azurite.Azurite(work / "azurite", cert, key)
                        try:
                            _warm(emulator.port, ca)
                            proxy.routes[".blob.core.windows.net"] = emulator.port
                            figures[kind].append(once(kind, root, environment))
                        finally:
                            emulator.close()
                            shutil.rmtree(work / "azurite")
                            shutil.rmtree(root)
                for kind, seen in figures.items():
                    seconds = statistics.median(item["seconds"] for item in seen)
                    peak = max(item["peak"] for item in seen)
                    print(
                        f"| {what} | {line} | {kind} | {seconds:.2f} | {size / seconds / 1e6:.0f} | {peak / 1e6:.0f} |"
                    )
                sys.stdout.flush()
    finally:
        proxy.close()
        fake.close()
        shutil.rmtree(work, ignore_errors=True)


def _warm(port: int, ca: Path) -> None:
    """Make the container, and let Node compile what it will run."""
    from azure.storage.blob import ContainerClient

    from tests.azure.azurite import ACCOUNT, KEY
    from tests.azure.fake import CONTAINER

    client = ContainerClient(
        f"https://127.0.0.1:{port}/{ACCOUNT}",
        CONTAINER,
        credential={"account_name": ACCOUNT, "account_key": KEY},
        connection_verify=str(ca),
    )
    client.create_container()
    for number in range(30):
        client.upload_blob(f"warm/{number}", bytes(SMALL), overwrite=True)
        client.get_blob_client("warm/blocks").stage_block(f"{number:03d}", bytes(4 * MIB))
    client.close()


if __name__ == "__main__":
    main()
