"""Compute, jobs, run history and endpoints of a workspace, played; a job's command is really run, if a test says so.

A job's inputs come out of the storage and its outputs go into it, as a mount would do it.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.azure.azurite import ACCOUNT

ML = "Microsoft.MachineLearningServices"
SPACE = rf"/subscriptions/([^/]+)/resourceGroups/([^/]+)/providers/{ML}/workspaces/([^/]+)"
REGION = rf"/subscriptions/([^/]+)/providers/{ML}/locations/([^/]+)"
Route = tuple[str, str, Callable[..., None]]


def cluster(
    name: str,
    size: str = "Standard_NC24ads_A100_v4",
    *,
    state: str = "Succeeded",
    low: bool = False,
    most: int = 2,
    idle: str = "PT600S",
    errors: Any = (),
) -> dict[str, Any]:
    """A cluster as ``GET computes`` gives it."""
    return {
        "id": f"/computes/{name}",
        "name": name,
        "type": f"{ML}/workspaces/computes",
        "location": "westeurope",
        "properties": {
            "computeType": "AmlCompute",
            "provisioningState": state,
            "properties": {
                "vmSize": size,
                "vmPriority": "LowPriority" if low else "Dedicated",
                "scaleSettings": {
                    "minNodeCount": 0,
                    "maxNodeCount": most,
                    "nodeIdleTimeBeforeScaleDown": idle,
                },
                "currentNodeCount": 0,
                "errors": list(errors),
            },
        },
    }


def instance(name: str, size: str = "Standard_DS3_v2", state: str = "Running") -> dict[str, Any]:
    """A compute instance."""
    inner = {"vmSize": size, "state": state, "idleTimeBeforeShutdown": "PT60M"}
    return {
        "id": f"/computes/{name}",
        "name": name,
        "location": "westeurope",
        "properties": {
            "computeType": "ComputeInstance",
            "provisioningState": "Succeeded",
            "properties": inner,
        },
    }


def _size(name: str, family: str, vcpus: int, gpus: int, price: float) -> dict[str, Any]:
    values = [
        {"osType": "Linux", "vmTier": "Standard", "retailPrice": price},
        {"osType": "Linux", "vmTier": "LowPriority", "retailPrice": price / 5},
        {"osType": "Windows", "vmTier": "Standard", "retailPrice": price * 2},
    ]
    prices = {"billingCurrency": "USD", "unitOfMeasure": "OneHour", "values": values}
    return {"name": name, "family": family, "vCPUs": vcpus, "gpus": gpus, "memoryGB": 8.0 * vcpus,
            "lowPriorityCapable": True, "estimatedVMPrices": prices}  # fmt: skip


@dataclass
class PlayedJob:
    """A job that was sent."""

    name: str
    body: dict[str, Any]
    status: str = "Queued"
    error: dict[str, Any] = field(default_factory=dict)
    starts: int = 0
    process: subprocess.Popen[bytes] | None = None
    folder: Path | None = None
    wanted: str = ""  # what somebody outside wants of it: cancel, preempt

    @property
    def properties(self) -> dict[str, Any]:
        """What was sent of it."""
        found: dict[str, Any] = self.body["properties"]
        return found


class Played:
    """What the workspace has of these. Change its attributes to change what it says."""

    def __init__(self) -> None:
        self.compute = [
            cluster("gpu-cluster"),
            cluster("spot", "Standard_NC96ads_A100_v4", low=True),
            instance("my-box"),
        ]
        self.sizes = [
            _size("Standard_NC24ads_A100_v4", "standardNCADSA100v4Family", 24, 1, 3.67),
            _size("Standard_NC96ads_A100_v4", "standardNCADSA100v4Family", 96, 4, 14.69),
            _size("Standard_DS3_v2", "standardDSv2Family", 4, 0, 0.27),
        ]
        self.usages = {
            "Standard NCADSA100v4 Family Cluster Dedicated vCPUs": (24, 96),
            "Standard DSv2 Family Cluster Dedicated vCPUs": (4, 100),
            "Total Cluster LowPriority Regional vCPUs": (0, 192),
        }
        self.jobs: dict[str, PlayedJob] = {}
        self.environments: dict[str, Any] = {}
        self.container: Any = None  # a client that goes around the service
        self.runs = "never"  # what becomes of a job: never | command | whatever plays() is told
        self.path = ""  # extra PYTHONPATH, and variables, of the command
        self.variables: dict[str, str] = {}
        self.plays: Callable[[PlayedJob], None] | None = None
        self.whole_command = False  # with the installation of the wheel
        self.threads: list[threading.Thread] = []
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.deployments: dict[str, dict[str, Any]] = {}
        self.codes: dict[str, Any] = {}
        self.comes_up = True
        self.made = "Succeeded"  # what becomes of a new cluster
        self.key = "planted-endpoint-key-" + "k" * 20
        self.answers: Callable[[dict[str, Any]], tuple[int, Any]] = lambda asked: (200, {})

    def routes(self, handler: Any) -> list[Route]:
        """The routes, for one request."""

        def bound(act: Callable[..., None]) -> Callable[..., None]:
            return lambda *groups, query, data: act(handler, *groups, query=query, data=data)

        routes: list[tuple[str, str, Callable[..., None]]] = [
            (SPACE + "/computes", "GET", self._computes),
            (SPACE + "/computes/([^/]+)", "GET", self._compute),
            (SPACE + "/computes/([^/]+)", "PUT", self._make_compute),
            (SPACE + "/jobs/([^/]+)", "PUT", self._put_job),
            (SPACE + "/jobs/([^/]+)", "GET", self._job),
            (SPACE + "/jobs/([^/]+)/cancel", "POST", self._cancel),
            (SPACE + "/environments/([^/]+)/versions/([^/]+)", "PUT", self._environment),
            (SPACE + "/environments/([^/]+)/versions/([^/]+)", "GET", self._environment_there),
            ("/history/v1.0" + SPACE + "/runs/([^/]+)/details", "GET", self._details),
            (SPACE + "/codes/([^/]+)/versions/([^/]+)", "GET", self._code_there),
            (SPACE + "/codes/([^/]+)/versions/([^/]+)", "PUT", self._code),
            (SPACE + "/onlineEndpoints/([^/]+)", "GET", self._endpoint),
            (SPACE + "/onlineEndpoints/([^/]+)", "PUT", self._put_endpoint),
            (SPACE + "/onlineEndpoints/([^/]+)", "DELETE", self._delete_endpoint),
            (SPACE + "/onlineEndpoints/([^/]+)/listKeys", "POST", self._keys),
            (SPACE + "/onlineEndpoints/([^/]+)/deployments/([^/]+)", "GET", self._deployment),
            (SPACE + "/onlineEndpoints/([^/]+)/deployments/([^/]+)", "PUT", self._put_deployment),
            (SPACE + "/onlineEndpoints/([^/]+)/deployments/([^/]+)/getLogs", "POST", self._endpoint_log),
            (REGION + "/vmSizes", "GET", self._sizes),
            (REGION + "/usages", "GET", self._usages),
        ]
        return [(pattern, method, bound(act)) for pattern, method, act in routes]

    def _computes(self, h: Any, *_: str, query: Any, data: Any) -> None:
        h._json({"value": self.compute})

    def _compute(self, h: Any, sub: str, rg: str, ws: str, name: str, query: Any, data: Any) -> None:
        found = next((each for each in self.compute if each["name"] == name), None)
        if found is None:
            h._none("ResourceNotFound", f"no compute {name}")
            return
        if found["properties"]["provisioningState"] == "Creating":  # until it is asked after
            found["properties"]["provisioningState"] = self.made
        h._json(found)

    def _make_compute(self, h: Any, sub: str, rg: str, ws: str, name: str, query: Any, data: Any) -> None:
        made = cluster(name, state="Creating")
        made["properties"] = {**made["properties"], **data["properties"], "provisioningState": "Creating"}
        self.compute.append(made)
        h._json(made, 201)

    def _sizes(self, h: Any, *_: str, query: Any, data: Any) -> None:
        h._json({"value": self.sizes})

    def _usages(self, h: Any, *_: str, query: Any, data: Any) -> None:
        rows = [
            {
                "unit": "Count",
                "currentValue": used,
                "limit": limit,
                "name": {"value": name, "localizedValue": name},
            }
            for name, (used, limit) in self.usages.items()
        ]
        h._json({"value": rows})

    # Jobs

    def _put_job(self, h: Any, sub: str, rg: str, ws: str, name: str, query: Any, data: Any) -> None:
        if name in self.jobs:
            h._json(self._shown(sub, rg, ws, self.jobs[name]))
            return
        job = self.jobs[name] = PlayedJob(name, data)
        if self.runs != "never":
            act = self._run if self.runs == "command" else self.plays
            assert act is not None
            thread = threading.Thread(target=act, args=(job,), daemon=True)
            self.threads.append(thread)
            thread.start()
        h._json(self._shown(sub, rg, ws, job), 201)

    def _shown(self, sub: str, rg: str, ws: str, job: PlayedJob) -> dict[str, Any]:
        path = f"/subscriptions/{sub}/resourceGroups/{rg}/providers/{ML}/workspaces/{ws}/jobs/{job.name}"
        studio = {"jobServiceType": "Studio", "endpoint": f"https://ml.azure.com/runs/{job.name}?wsid=x"}
        return {
            "id": path,
            "name": job.name,
            "type": f"{ML}/workspaces/jobs",
            "properties": {**job.properties, "status": job.status, "services": {"Studio": studio}},
            "systemData": {"createdAt": "2026-11-27T10:00:00Z", "createdBy": "ada"},
        }

    def _job(self, h: Any, sub: str, rg: str, ws: str, name: str, query: Any, data: Any) -> None:
        if name in self.jobs:
            h._json(self._shown(sub, rg, ws, self.jobs[name]))
        else:
            h._none("UserError", f"no job {name}")

    def _cancel(self, h: Any, sub: str, rg: str, ws: str, name: str, query: Any, data: Any) -> None:
        job = self.jobs.get(name)
        if job is None:
            h._none("UserError", f"no job {name}")
            return
        self.end(job, "cancel")
        h._json({}, 202)

    def _environment(
        self, h: Any, sub: str, rg: str, ws: str, name: str, version: str, query: Any, data: Any
    ) -> None:
        path = (
            f"/subscriptions/{sub}/resourceGroups/{rg}/providers/{ML}/workspaces/{ws}"
            f"/environments/{name}/versions/{version}"
        )
        self.environments[f"{name}:{version}"] = {
            "id": path,
            "name": version,
            "type": f"{ML}/workspaces/environments/versions",
            "properties": {**data["properties"], "environmentType": "UserCreated", "osType": "Linux"},
            "systemData": {},
        }
        h._json(self.environments[f"{name}:{version}"], 201)

    def _environment_there(
        self, h: Any, sub: str, rg: str, ws: str, name: str, version: str, query: Any, data: Any
    ) -> None:
        found = self.environments.get(f"{name}:{version}")
        if found is None:
            h._none("UserError", f"no environment {name}")
        else:
            h._json(found)

    def _details(self, h: Any, sub: str, rg: str, ws: str, name: str, query: Any, data: Any) -> None:
        job = self.jobs.get(name)
        if job is None:
            h._none("UserError", f"no run {name}")
            return
        address = f"https://{ACCOUNT}.blob.core.windows.net/{h.service.container}/{self.log_of(job)}"
        logs = {"user_logs/std_log.txt": f"{address}?{h.service.sas()}"} if job.starts else {}
        h._json({"runId": name, "status": job.status, "logFiles": logs, "error": job.error or None})

    @staticmethod
    def log_of(job: PlayedJob) -> str:
        """The blob of its log."""
        return f"ExperimentRun/dcid.{job.name}/user_logs/std_log.txt"

    def write_log(self, job: PlayedJob, text: str | bytes) -> None:
        """The whole of its log so far."""
        job.starts = job.starts or 1
        self.container.upload_blob(
            self.log_of(job), text.encode() if isinstance(text, str) else text, overwrite=True
        )

    def end(self, job: PlayedJob, wanted: str = "cancel") -> None:
        """Somebody ends it, or takes its machine back."""
        job.wanted = wanted
        if job.process is None or job.process.poll() is not None:
            if wanted == "cancel" and job.status not in ("Completed", "Failed"):
                job.status = "Canceled"
            return
        with suppress(ProcessLookupError):
            os.killpg(job.process.pid, signal.SIGTERM if wanted == "cancel" else signal.SIGKILL)

    # A machine that runs a job's command: inputs out of the storage, outputs into it.

    def _run(self, job: PlayedJob) -> None:
        try:
            while True:
                status = self._run_once(job)
                if job.wanted == "cancel":
                    job.status = "Canceled"
                elif job.wanted == "preempt":
                    job.wanted, job.status = "", "Queued"
                    continue
                else:
                    job.status = "Completed" if status == 0 else "Failed"
                    job.error = (
                        {"error": {"code": "UserError", "message": f"exit status {status}"}} if status else {}
                    )
                return
        except Exception as error:  # the test reads it
            job.status, job.error = "Failed", {"error": {"code": "PlayedError", "message": repr(error)}}

    def _run_once(self, job: PlayedJob) -> int:
        job.starts += 1
        job.status = "Preparing"
        job.folder = Path(tempfile.mkdtemp(prefix=f"machine-{job.starts}-"))
        places = {}
        for kind in ("inputs", "outputs"):
            for name, said in (job.properties.get(kind) or {}).items():
                prefix = said["uri"].split("/paths/", 1)[1].rstrip("/")
                folder = job.folder / kind / name
                folder.mkdir(parents=True)
                self.download(prefix, folder)
                places[f"${{{{{kind}.{name}}}}}"] = (folder, prefix)
        command = job.properties["command"]
        for word, (folder, _) in places.items():
            command = command.replace(word, str(folder))
        out, prefix = places["${{outputs.lab}}"]
        command, variables = self._machine(job.folder, command)
        log = job.folder / "std_log.txt"
        with log.open("wb") as stream:
            job.process = subprocess.Popen(
                ["bash", "-c", command], cwd=self._cwd(job.folder), stdin=subprocess.DEVNULL, stdout=stream,
                stderr=stream, start_new_session=True, env=variables,
            )  # fmt: skip
        job.status = "Running"
        seen: dict[Path, tuple[int, int]] = {}
        while True:
            over = True
            with suppress(subprocess.TimeoutExpired):
                job.process.wait(0.2)
            over = job.process.poll() is not None
            if over:
                with suppress(ProcessLookupError):
                    os.killpg(job.process.pid, signal.SIGKILL)
            self._upload(out, prefix, seen)
            self.write_log(job, log.read_bytes())
            if over:
                return int(job.process.returncode)

    @staticmethod
    def _cwd(folder: Path) -> Path:
        work = folder / "work"
        work.mkdir()
        return work

    def _machine(self, folder: Path, command: str) -> tuple[str, dict[str, str]]:
        """The command and the environment of a machine that has what the job's environment names."""
        found = re.search(r"\S+\.whl", command)
        assert found is not None
        kept = ("PATH", "LANG", "TMPDIR", "OMP_NUM_THREADS")
        variables = {name: os.environ[name] for name in kept if name in os.environ}
        home = folder / "home"
        home.mkdir()
        variables |= {"HOME": str(home), "HF_HUB_OFFLINE": "1", **self.variables}
        python = Path(os.environ["PLAYED_PYTHON"])
        bin_ = folder / "bin"
        if self.whole_command:
            subprocess.run([python, "-m", "venv", "--without-pip", folder / "venv"], check=True)
            site = next((folder / "venv" / "lib").glob("python*/site-packages"))
            packages = python.parent.parent / "lib" / site.parent.name / "site-packages"
            (site / "environment.pth").write_text(f"{packages}\n")
            bin_ = folder / "venv" / "bin"
        else:
            code = folder / "code"
            with zipfile.ZipFile(found[0]) as archive:
                archive.extractall(code)
            command = command.split(" && ", 1)[1]
            bin_.mkdir()
            script = bin_ / "olivepress"
            script.write_text(f'#!/bin/sh\nexec {python} -P -m core.cli "$@"\n')
            script.chmod(0o755)
            variables["PYTHONPATH"] = os.pathsep.join(filter(None, (str(code), self.path)))
        variables["PATH"] = f"{bin_}{os.pathsep}{variables['PATH']}"
        return command, variables

    def download(self, prefix: str, folder: Path) -> None:
        """What lies below a prefix, as a mount shows it."""
        for blob in self.container.list_blobs(name_starts_with=prefix + "/"):
            target = folder / blob.name.removeprefix(prefix + "/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.container.download_blob(blob.name).readall())

    def _upload(self, folder: Path, prefix: str, seen: dict[Path, tuple[int, int]]) -> None:
        for path in sorted(folder.rglob("*"), key=lambda path: (path.suffix == ".json", str(path))):
            with suppress(FileNotFoundError):
                if path.is_file() and not path.name.endswith(".half"):
                    state = (path.stat().st_size, path.stat().st_mtime_ns)
                    if seen.get(path) != state:
                        name = f"{prefix}/{path.relative_to(folder).as_posix()}"
                        self.container.upload_blob(name, path.read_bytes(), overwrite=True)
                        seen[path] = state
        for path in [path for path in seen if not path.exists()]:
            with suppress(Exception):
                self.container.delete_blob(f"{prefix}/{path.relative_to(folder).as_posix()}")
            del seen[path]

    def close(self) -> None:
        """End what still runs, and remove the machines."""
        for job in self.jobs.values():
            self.end(job)
        for thread in self.threads:
            thread.join(20)
        for job in self.jobs.values():
            if job.folder is not None:
                shutil.rmtree(job.folder, ignore_errors=True)

    # Endpoints

    def _code_there(
        self, h: Any, sub: str, rg: str, ws: str, name: str, version: str, query: Any, data: Any
    ) -> None:
        found = self.codes.get(f"{name}:{version}")
        if found is None:
            h._none("UserError", f"no code {name}")
        else:
            h._json(found)

    def _code(
        self, h: Any, sub: str, rg: str, ws: str, name: str, version: str, query: Any, data: Any
    ) -> None:
        self.codes[f"{name}:{version}"] = {"id": f"/codes/{name}/versions/{version}", **data}
        h._json(self.codes[f"{name}:{version}"], 201)

    def _endpoint(self, h: Any, sub: str, rg: str, ws: str, name: str, query: Any, data: Any) -> None:
        if name in self.endpoints:
            h._json(self.endpoints[name])
        else:
            h._none("UserError", f"no endpoint {name}")

    def _put_endpoint(self, h: Any, sub: str, rg: str, ws: str, name: str, query: Any, data: Any) -> None:
        before = self.endpoints.get(name, {}).get("properties", {})
        address = f"https://{name}.westeurope.inference.ml.azure.com/score"
        properties = {**before, **data["properties"], "scoringUri": address, "provisioningState": "Succeeded"}
        self.endpoints[name] = {"name": name, "identity": data["identity"], "properties": properties}
        h._json(self.endpoints[name], 200 if before else 201)

    def _delete_endpoint(self, h: Any, sub: str, rg: str, ws: str, name: str, query: Any, data: Any) -> None:
        self.endpoints.pop(name, None)
        self.deployments.pop(name, None)
        h._json({}, 202)

    def _keys(self, h: Any, *_: str, query: Any, data: Any) -> None:
        h._json({"primaryKey": self.key, "secondaryKey": self.key})

    def _deployment(
        self, h: Any, sub: str, rg: str, ws: str, name: str, deployment: str, query: Any, data: Any
    ) -> None:
        if name in self.deployments:
            h._json(self.deployments[name])
        else:
            h._none("UserError", f"no deployment {deployment}")

    def _put_deployment(
        self, h: Any, sub: str, rg: str, ws: str, name: str, deployment: str, query: Any, data: Any
    ) -> None:
        state = "Succeeded" if self.comes_up else "Failed"
        self.deployments[name] = {**data, "properties": {**data["properties"], "provisioningState": state}}
        h._json(self.deployments[name], 201)

    def _endpoint_log(self, h: Any, *_: str, query: Any, data: Any) -> None:
        h._json({"content": "Traceback: it has no model. sig=abcdefghijkl"})

    def score(self, h: Any, asked: dict[str, Any]) -> None:
        """A request to an endpoint."""
        if h.headers.get("Authorization") != f"Bearer {self.key}":
            h._json({"error": "key_auth_access_denied"}, 401)
            return
        status, answer = self.answers(asked)
        h._json(answer, status)
