"""Where a model comes from: a folder, a GGUF file, a hub id, the bundled rehearsal model, or a registry.

Hub downloads go through ``huggingface_hub`` and its cache: the token from ``HF_TOKEN`` or ``hf auth
login``, ``HF_ENDPOINT``, ``HF_HOME`` and ``HF_HUB_OFFLINE`` are respected as everywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from core.errors import Cancelled, LabError, MachineError, RequestError
from core.events import Reporter
from core.files import explained, folder_digest, folder_stamp
from core.language import told
from core.model.folder import check_folder
from core.model.gguf import check_gguf, float_folder, is_gguf
from core.resources import REHEARSAL, rehearsal_model
from core.user_dirs import cache_dir

PATTERNS = (
    "*.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "README.md",
    "LICEN[CS]E*",
    "NOTICE*",
    "USE_POLICY*",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "spiece.model",
    "chat_template*",
)
"""What is fetched of a hub model: weights in safetensors, configuration, tokenizer, card and licence."""

SKIPPED = ("*/*", "consolidated*.safetensors", "*.fp32.safetensors", "adapter_model.safetensors")
"""What is left out of it: subfolders (other formats) and second copies of the weights."""

_HUB_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
_ADVICE = told(
    "Set model.source to a folder, a .gguf file, a hub id such as "
    'microsoft/Phi-3.5-mini-instruct, or "rehearsal".'
)
_PHASES = {r"Reconstruct": told("Downloading the model"), r"Download|Fetching": ""}


@dataclass(frozen=True)
class ModelSource:
    """A model that lies on this machine.

    Attributes:
        path: its folder, checked to be whole.
        name: as people know it: the folder's or file's name, the hub id, the registry's path.
        revision: the hub's commit or the registry's version, None for a folder or file.
    """

    path: Path
    name: str
    revision: str | None


def kind_of(source: str, lab_root: Path) -> str:
    """``rehearsal``, ``azureml``, ``folder``, ``gguf`` or ``hub``; nothing is opened or fetched.

    A path that exists wins over a hub id of the same letters, relative ones below the lab's folder.
    """
    if source == REHEARSAL:
        return "rehearsal"
    if source.startswith("azureml:"):
        return "azureml"
    place = local_place(source, lab_root)
    if is_gguf(place) and not place.is_dir() and (place.exists() or not _HUB_ID.fullmatch(source)):
        return "gguf"
    if place.is_dir() or source.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(source):
        return "folder"
    return "hub"


def at_hand(source: str, lab_root: Path, file: str = "config.json") -> Path | None:
    """Where a model lies on this machine: its folder or GGUF file, there or not; None for one that is to be fetched.

    Args:
        file: what a model of the hub must have in the cache.
    """
    kind = kind_of(source, lab_root)
    if kind == "rehearsal":
        return rehearsal_model()
    if kind in ("folder", "gguf"):
        return local_place(source, lab_root)
    if kind == "hub":
        from huggingface_hub import try_to_load_from_cache

        name, _, revision = source.partition("@")
        cached = try_to_load_from_cache(name, file, revision=revision or None)
        return Path(cached).parent if isinstance(cached, str) else None
    return None


def resolve_model(
    source: str, lab_root: Path, report: Reporter, *, trust_remote_code: bool = False
) -> ModelSource:
    """Bring a model to this machine, if it is not there, and check that it is whole.

    Args:
        source: a folder or GGUF file (relative ones below ``lab_root``), ``owner/name`` or
            ``owner/name@revision`` on the hub, ``rehearsal``, or an ``azureml://`` path.
        trust_remote_code: fetch the model's Python files as well.

    Raises:
        RequestError: there is no such model, it may not be had, or it is not whole.
        MachineError: the hub cannot be reached, or disk or memory do not suffice.
        StageError: a GGUF file did not unpack to the whole model.
        Cancelled: the user asked to stop.
    """
    kind = kind_of(source, lab_root)
    if kind == "azureml":
        return _from_registry(source, report)
    if kind == "hub":
        found = _from_hub(source, report, trust_remote_code)
    elif kind == "rehearsal":
        found = ModelSource(rehearsal_model(), REHEARSAL, None)
    elif kind == "gguf":
        file = local_place(source, lab_root)
        found = ModelSource(float_folder(file, report), file.name, None)
    else:
        folder = local_place(source, lab_root)
        found = ModelSource(folder, folder.name, None)
    check_folder(found.path)
    return found


def model_stamp(source: str, lab_root: Path) -> dict[str, str]:
    """What tells a model from another, for a stage's fingerprint; nothing is fetched or unpacked.

    A hub model is known by its id, a folder by its files, the bundled one by their bytes, a GGUF file by its
    header, size and time.

    Raises:
        RequestError: the folder or file is missing, or it is not a model.
    """
    kind = kind_of(source, lab_root)
    if kind == "gguf":
        header = check_gguf(local_place(source, lab_root))
        return {"source": header.path.name, "files": header.stamp}
    if kind in ("folder", "rehearsal"):
        found = resolve_model(source, lab_root, Reporter())
        # The bundled model is the same in every installation, each of which gives its files other times.
        stamp = folder_digest if kind == "rehearsal" else folder_stamp
        return {"source": found.name, "files": stamp(found.path)}
    return {"source": source}


def local_place(source: str, lab_root: Path) -> Path:
    """The folder or file that ``model.source`` names, if it names one; relative ones below the lab's folder."""
    path = Path(source).expanduser()
    return (path if path.is_absolute() else lab_root / path).resolve()


def _from_registry(source: str, report: Reporter) -> ModelSource:
    from core.azure import download_model

    cache = cache_dir() / "registry"
    path = download_model(source, cache, report)
    check_folder(path)
    version = re.search(r"/versions/([^/]+)", source)
    return ModelSource(path, source, version.group(1) if version else None)


def _from_hub(source: str, report: Reporter, trust_remote_code: bool) -> ModelSource:
    from huggingface_hub import constants, snapshot_download

    from core.tqdm_progress import reporting

    match = _HUB_ID.fullmatch(source)
    assert match is not None  # kind_of has looked
    name, revision = match["id"], match["revision"]
    patterns = [*PATTERNS, "*.py"] if trust_remote_code else list(PATTERNS)
    report.progress(told("Looking for the model"), 0, None)
    try:
        with reporting(report, _PHASES), explained(Path(constants.HF_HUB_CACHE)):
            path = Path(
                snapshot_download(
                    name,
                    revision=revision,
                    allow_patterns=patterns,
                    ignore_patterns=list(SKIPPED),
                    max_workers=4,
                )
            )
    except Cancelled:
        raise
    except LabError:
        raise
    except Exception as error:  # httpx's, huggingface_hub's and the system's errors have no common base
        raise _explain(error, name, revision) from error
    return ModelSource(path, name, path.name)


def _explain(error: Exception, name: str, revision: str | None) -> LabError:
    from huggingface_hub import constants, errors

    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    answers = [answer for each in chain if (answer := getattr(each, "response", None)) is not None]
    status = int(answers[0].status_code) if answers else 0

    def has(kind: type[BaseException]) -> bool:
        return any(isinstance(each, kind) for each in chain)

    where = told("{name} on {endpoint}", name=name, endpoint=constants.ENDPOINT)
    login = told('Log in with "hf auth login", or put a token into HF_TOKEN.')
    reason = next(
        (" ".join(str(each).split()) for each in reversed(chain) if str(each)), type(error).__name__
    )
    unknown = has(errors.RepositoryNotFoundError)
    cases = (
        (
            has(errors.GatedRepoError),
            RequestError(
                told("The model is gated."),
                told("{where} is given only to accounts that have accepted its terms.", where=where),
                told(
                    "Accept them on {endpoint}/{name}. {login}",
                    endpoint=constants.ENDPOINT,
                    name=name,
                    login=login,
                ),
                code="hub.gated",
            ),
        ),
        (
            status in (401, 403) and not unknown,
            RequestError(
                told("The hub refused the token."),
                told("{where}: HTTP {status}.", where=where, status=status),
                login,
                code="hub.sign-in",
            ),
        ),
        (
            has(errors.RevisionNotFoundError),
            RequestError(
                told("The model has no such revision."),
                told(
                    "{name}@{revision} on {endpoint}.",
                    name=name,
                    revision=revision,
                    endpoint=constants.ENDPOINT,
                ),
                told("Name a branch, tag or commit it has."),
                code="hub.missing",
            ),
        ),
        (
            unknown,
            RequestError(
                told("The hub has no such model."),
                told("{where} does not exist, or is private.", where=where),
                told("{advice} {login}", advice=_ADVICE, login=login),
                code="hub.missing",
            ),
        ),
        (
            has(errors.OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE,
            MachineError(
                told("The model is not on this machine, and downloads are switched off."),
                told(
                    "{name} is not whole in {hf_hub_cache}, and HF_HUB_OFFLINE is set.",
                    name=name,
                    hf_hub_cache=constants.HF_HUB_CACHE,
                ),
                told(
                    "Unset HF_HUB_OFFLINE, or fetch the model elsewhere and set model.source to its folder."
                ),
                code="hub.offline",
            ),
        ),
        (
            status and has(errors.HfHubHTTPError),
            MachineError(
                told("The hub answered with an error."),
                told("{where}: HTTP {status}.", where=where, status=status),
                told("Try again in some minutes."),
                code="hub.error",
            ),
        ),
        (
            True,
            MachineError(
                told("The hub cannot be reached."),
                told("{where}: {reason}", where=where, reason=reason[:300]),
                told(
                    "Check the network and HF_ENDPOINT; what was downloaded is kept and the next try goes on "
                    "from there."
                ),
                code="hub.unreachable",
            ),
        ),
    )
    return next(said for holds, said in cases if holds)
