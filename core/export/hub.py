"""A form of the result, sent to a repository of the Hugging Face Hub over ``huggingface_hub``.

``hf auth login``, ``HF_TOKEN``, ``HF_ENDPOINT`` and ``HF_HUB_OFFLINE`` are respected as everywhere. The form is made in
the lab's own folder. The large files are sent one after the other, and one that has arrived is not sent again by the
next try. The repository changes in one step, when everything is there.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import LabError, MachineError, RequestError
from core.export.forms import form_named, type_of
from core.export.write import Exported, ExportRequest
from core.files import MANIFEST
from core.formats import counted, human_bytes
from core.language import told
from core.text import first_line
from core.tqdm_progress import reporting
from core.version import __version__

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_LOGIN = told('Log in with "hf auth login", or put a token that may write into HF_TOKEN.')


def run(wanted: ExportRequest) -> Exported:
    """Make the form, look at the hub, and send what it has not yet; with ``dry_run`` nothing is sent."""
    from huggingface_hub import HfApi

    name = wanted.out
    _refuse_name(name)
    api = HfApi(library_name="olivepress", library_version=__version__)
    seen = _look(api, name)
    made = _made(wanted)
    folder = Path(made.path)
    try:
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST]
        files = [(path.relative_to(folder).as_posix(), path) for path in paths]
        contents: list[dict[str, Any]] = [
            {"name": sent, "bytes": path.stat().st_size} for sent, path in files
        ]
        if not wanted.dry_run:
            _send(wanted, api, name, files)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    url, total = f"{api.endpoint}/{name}", sum(each["bytes"] for each in contents)
    notes = list(made.notes)
    if wanted.dry_run:
        notes.insert(
            0,
            told(
                "{files}, {total}, would be sent to {url}; nothing was.",
                files=counted(len(files), "file"),
                total=human_bytes(total),
                url=url,
            ),
        )
    if wanted.public and seen["private"]:
        notes.append(told("{name} is there already and private: it stays so.", name=name))
    if not wanted.public and seen["private"] is False:
        notes.append(told("{name} is there already and open to everybody.", name=name))
    return Exported(
        "hub",
        url,
        total,
        notes=tuple(notes),
        numbers={
            "hub_form": wanted.hub_form,
            "user": seen["user"],
            "private": not wanted.public if seen["private"] is None else bool(seen["private"]),
            "sent": not wanted.dry_run,
            "contents": contents,
        },
    )


def _refuse_name(name: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
        right = name.count("/") == 1
    except HFValidationError:
        right = False
    if not right:
        raise RequestError(
            told("That is no name of a repository."),
            told("{name!r} is not OWNER/NAME, as the hub takes it.", name=name),
            told("Name it as its page is named, such as my-name/travel."),
            code="hub.name",
        )


def _made(wanted: ExportRequest) -> Exported:
    """The form in the lab's own folder; made anew each time, for what it is made from may have changed."""
    form = form_named(wanted.hub_form)
    place = wanted.folder.state_dir / "hub" / (wanted.hub_form + "-" + wanted.out.rpartition("/")[2])
    inner = dataclasses.replace(
        wanted, form=form, out=str(place), type=type_of(form, wanted.type), force=True
    )
    return form.load().run(inner)


def _look(api: HfApi, name: str) -> dict[str, Any]:
    """Who is signed in, and whether the repository is there and private."""
    from huggingface_hub import errors

    try:
        user = str(api.whoami().get("name") or "")
        try:
            private = bool(api.repo_info(name).private)
        except errors.RepositoryNotFoundError:
            return {"user": user, "private": None}
        return {"user": user, "private": private}
    except LabError:
        raise
    except Exception as error:  # the hub's client raises its own, httpx's and the system's errors
        raise _explain(error, name) from error


def _send(wanted: ExportRequest, api: HfApi, name: str, files: list[tuple[str, Path]]) -> None:
    from huggingface_hub import CommitOperationAdd

    report = wanted.report
    try:
        with reporting(report):
            api.create_repo(name, private=not wanted.public, exist_ok=True)
            operations = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=file) for path, file in files]
            total = sum(file.stat().st_size for _, file in files)
            done = 0
            for operation, (_, file) in zip(operations, files, strict=True):
                report.check_cancelled()
                api.preupload_lfs_files(name, [operation], free_memory=False)
                done += file.stat().st_size
                report.progress(told("Sending"), done, total)
            api.create_commit(
                name, operations, commit_message=f"{wanted.hub_form} by OlivePress {__version__}"
            )
    except LabError:
        raise
    except Exception as error:  # as in _look
        raise _explain(error, name) from error


def _explain(error: Exception, name: str) -> LabError:
    """What a fault of the hub's client means. A token never stands in it: its words are not taken over."""
    from huggingface_hub import constants, errors

    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    answers = [answer for each in chain if (answer := getattr(each, "response", None)) is not None]
    status = int(answers[0].status_code) if answers else 0
    where = told("{name} on {endpoint}", name=name, endpoint=constants.ENDPOINT)
    if isinstance(error, errors.LocalTokenNotFoundError):
        return RequestError(told("Nobody is signed in to the hub."), where, _LOGIN, code="hub.sign-in")
    if any(isinstance(each, errors.OfflineModeIsEnabled) for each in chain) or constants.HF_HUB_OFFLINE:
        return MachineError(
            told("The hub is switched off."),
            told("HF_HUB_OFFLINE is set."),
            told("Unset HF_HUB_OFFLINE."),
            code="hub.offline",
        )
    if status == 401:
        return RequestError(
            told("The hub refused the token."),
            told("{where}: HTTP 401.", where=where),
            _LOGIN,
            code="hub.sign-in",
        )
    if status == 403:
        return RequestError(
            told("You may not write there."),
            told("{where}: HTTP 403.", where=where),
            told("Name a repository of your own account, or use a token that may write."),
            code="hub.forbidden",
        )
    if status:
        return MachineError(
            told("The hub answered with an error."),
            told("{where}: HTTP {status}.", where=where, status=status),
            told("Run the same again: what has arrived is not sent again."),
            code="hub.error",
        )
    return MachineError(
        told("The hub cannot be reached."),
        told(
            "{where}: {kind}: {reason}",
            where=where,
            kind=type(chain[-1]).__name__,
            reason=first_line(chain[-1])[:200],
        ),
        told(
            "Check the network and HF_ENDPOINT, and run the same again: what has arrived is not sent again."
        ),
        code="hub.unreachable",
    )
