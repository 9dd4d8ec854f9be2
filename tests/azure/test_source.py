"""Models of a registry or a workspace as a source: addresses, download, resume, verification, cache."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.azure import download_model
from core.azure.download import CONNECTIONS, LARGEST_PART, Address, _told, check_names, parse, safe_name
from core.azure.workspace import Place
from core.errors import Cancelled, LabError, MachineError, RequestError, StageError
from core.events import RecordingReporter, Reporter
from tests.azure.conftest import World
from tests.azure.fake import SUBSCRIPTION
from tests.azure.labs import signed_in
from tests.waiting import soon, until

URI = "azureml://registries/azureml/models/Phi-3.5-mini-instruct/versions/4"


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        (URI, Address(registry="azureml", name="Phi-3.5-mini-instruct", version="4")),
        ("azureml://registries/r/models/m/labels/latest", Address(registry="r", name="m", version="latest")),
        (
            "azureml://subscriptions/s/resourceGroups/g/workspaces/w/models/m/versions/2",
            Address(place=Place("s", "g", "w"), name="m", version="2"),
        ),
        (
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w/models/m/versions/2",
            Address(place=Place("s", "g", "w"), name="m", version="2"),
        ),
        (
            "azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/d/paths/a/b",
            Address(place=Place("s", "g", "w"), datastore="d", path="a/b"),
        ),
    ],
)
def test_addresses(uri: str, address: Address) -> None:
    assert parse(uri) == address


@pytest.mark.parametrize(
    "uri", ["azureml:m:1", "azureml://registries/r/models/m", "https://x", "azureml://registries/"]
)
def test_what_is_no_address(uri: str) -> None:
    with pytest.raises(RequestError, match="not an address"):
        parse(uri)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../b", "c:/x", "a\\b", "", "a//b", "./a", "a/"]
)
def test_a_name_that_leads_out_of_the_folder_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match="outside its folder"):
        safe_name(name)


@pytest.fixture
def files(blobs: World, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A model in the registry: two big files and a small one."""
    signed_in(blobs, monkeypatch)
    prefix = f"models/{time.time_ns()}"
    source = random.Random(prefix)
    content = {
        "model.safetensors": source.randbytes(3 * LARGEST_PART + 11),
        "config.json": b"{}",
        "sub/tokenizer.bin": source.randbytes(LARGEST_PART),
        "empty": b"",
    }
    client = blobs.fake.make_container()
    for name, data in content.items():
        client.upload_blob(f"{prefix}/{name}", data)
    blobs.fake.registry[("azureml", "Phi-3.5-mini-instruct", "4")] = prefix
    return content


def same(folder: Path, files: dict[str, bytes]) -> bool:
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    found.pop("olivepress.download.json")
    return found == files


def test_a_registry_model_comes_whole_and_is_cached(
    blobs: World, files: dict[str, bytes], tmp_path: Path
) -> None:
    report = RecordingReporter()
    folder = download_model(URI, tmp_path / "cache", report)
    assert same(folder, files)
    progress = [e for e in report.events if e.get("phase") == "download"]
    assert progress[-1]["done"] == progress[-1]["total"] == sum(map(len, files.values()))
    blobs.fake.requests.clear()
    assert download_model(URI, tmp_path / "cache", RecordingReporter()) == folder
    assert blobs.fake.requests == [], "a whole model of the cache needs no network"


def test_latest_finds_the_newest(blobs: World, files: dict[str, bytes], tmp_path: Path) -> None:
    folder = download_model(URI.replace("versions/4", "labels/latest"), tmp_path, RecordingReporter())
    assert folder.name == "4"
    assert same(folder, files)


def kept(folder: Path) -> int:
    """The bytes that journals say are on the disk."""
    lines = [line for path in folder.rglob("*.ranges") for line in path.read_text().splitlines()[1:]]
    return sum(int(end) - int(start) for start, end in (line.split() for line in lines))


def progress(report: RecordingReporter) -> list[float]:
    return [event["done"] for event in report.events if event.get("phase") == "download"]


def test_a_broken_download_goes_on(blobs: World, files: dict[str, bytes], tmp_path: Path) -> None:
    fault = blobs.fake.fault(host="blob", method="GET", path="safetensors", action="reset", skip=2)
    with pytest.raises(StageError, match="line to Azure broke"):
        download_model(URI, tmp_path, RecordingReporter())
    assert list(tmp_path.rglob("*.download.json")) == []
    there = kept(tmp_path) + sum(
        p.stat().st_size for p in tmp_path.rglob("*") if p.is_file() and p.suffix not in (".part", ".ranges")
    )
    assert 0 < there < sum(map(len, files.values()))
    blobs.fake.faults.remove(fault)
    report = RecordingReporter()
    folder = download_model(URI, tmp_path, report)
    assert same(folder, files)
    assert progress(report)[0] >= there, "what was there is not fetched again"
    assert [p.name for p in folder.parent.iterdir()] == ["4"], "nothing is left beside it"


def test_an_answer_that_ends_early_is_asked_for_again(
    blobs: World, files: dict[str, bytes], tmp_path: Path
) -> None:
    fault = blobs.fake.fault(host="blob", method="GET", path="safetensors", action="short", times=3)
    assert same(download_model(URI, tmp_path, RecordingReporter()), files)
    assert fault.times == 0


def test_a_host_that_drips_is_given_up(
    blobs: World, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLIVEPRESS_AZURE_PATIENCE", "1")
    monkeypatch.setattr("core.azure.transport.SLOWEST", 1 << 30)
    blobs.fake.fault(host="blob", method="GET", path="safetensors", action="drip")
    with soon(), pytest.raises(StageError, match="does not answer"):
        download_model(URI, tmp_path, RecordingReporter())


def test_parts_fit_the_line_and_what_is_on_its_way_is_little() -> None:
    assert CONNECTIONS * LARGEST_PART <= 8 << 20, "bytes that a kill loses at most"


def test_what_arrives_damaged_is_fetched_again(blobs: World, files: dict[str, bytes], tmp_path: Path) -> None:
    fault = blobs.fake.fault(host="blob", method="GET", path="safetensors", action="reset", skip=3)
    with pytest.raises(StageError):
        download_model(URI, tmp_path, RecordingReporter())
    blobs.fake.faults.remove(fault)
    # A bad disk or a crash turns some bytes of a range that is there.
    (journal,) = (p for p in tmp_path.rglob("*.ranges") if f" {3 * LARGEST_PART + 11}\n" in p.read_text())
    start = int(journal.read_text().splitlines()[1].split()[0])
    with journal.with_suffix(".part").open("r+b") as stream:
        stream.seek(start)
        stream.write(b"\0\1\2\3")
    client = blobs.fake.make_container()
    prefix = blobs.fake.registry[("azureml", "Phi-3.5-mini-instruct", "4")]
    assert (
        client.get_blob_client(f"{prefix}/model.safetensors")
        .get_blob_properties()
        .content_settings.content_md5
    )
    report = RecordingReporter()
    assert same(download_model(URI, tmp_path, report), files)
    assert any("damaged" in event.get("text", "") for event in report.events)


def test_a_file_of_the_cache_that_was_cut_is_fetched_again(
    blobs: World, files: dict[str, bytes], tmp_path: Path
) -> None:
    folder = download_model(URI, tmp_path, RecordingReporter())
    (folder / "model.safetensors").write_bytes(b"cut")
    assert same(download_model(URI, tmp_path, RecordingReporter()), files)


def in_registry(blobs: World, *names: str) -> None:
    prefix = f"models/{time.time_ns()}"
    client = blobs.fake.make_container()
    for name in names:
        client.upload_blob(f"{prefix}/{name}", name.encode())
    blobs.fake.registry[("azureml", "Phi-3.5-mini-instruct", "4")] = prefix


def test_names_that_look_like_ours_all_arrive(blobs: World, files: dict[str, bytes], tmp_path: Path) -> None:
    names = ("x", "x.part", "x.parts", "x.part.ranges", ".4.parts/x", ".fetching")
    in_registry(blobs, *names)
    assert same(download_model(URI, tmp_path, RecordingReporter()), {name: name.encode() for name in names})


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (("a", "a/b"), "'a' is a file and not a folder"),
        (("n" * 300,), "too long"),
        (("a//b",), "outside its folder"),
    ],
)
def test_what_this_system_cannot_hold_is_said_before_a_byte_comes(
    blobs: World, files: dict[str, bytes], tmp_path: Path, names: tuple[str, ...], why: str
) -> None:
    in_registry(blobs, *names)
    blobs.fake.requests.clear()
    with pytest.raises(RequestError) as caught:
        download_model(URI, tmp_path, RecordingReporter())
    assert why in str(caught.value)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_what_the_system_refuses_to_write_is_told(
    blobs: World, files: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "azureml" / "registries" / "azureml").mkdir(parents=True)
    (tmp_path / "azureml" / "registries" / "azureml" / "Phi-3.5-mini-instruct").write_text("in the way")
    with pytest.raises(MachineError) as blocked:
        download_model(URI, tmp_path, RecordingReporter())
    assert blocked.value.code == "lab.file"

    too_long = tmp_path / ("n" * 300)
    with pytest.raises(StageError) as caught, _told(tmp_path):
        too_long.write_bytes(b"")
    assert caught.value.code == "fetch.file"
    assert str(too_long) in caught.value.detail


@pytest.mark.parametrize(
    "names",
    [
        ("a:b",), ("a\\b",), ("what?",), ("tab\t",), ("ends.",), ("ends /x",), ("con",), ("sub/LPT1.txt",),
        ("n" * 256,), ("d/" * 500 + "x",), ("a", "a/b"), ("A", "a"), ("Ü", "u\u0308"), ("A", "a/b"),
    ],
)  # fmt: skip
def test_names_that_another_system_cannot_hold(names: tuple[str, ...]) -> None:
    with pytest.raises(RequestError) as caught:
        check_names(names)
    assert caught.value.code == "model.file-name"


@given(st.lists(st.from_regex(r"[a-z0-9_-]{1,8}(\.[a-z]{1,4})?", fullmatch=True), unique=True))
def test_plain_names_are_held_everywhere(names: list[str]) -> None:
    plain = [name for name in names if name.split(".")[0] not in ("con", "prn", "aux", "nul")]
    check_names(
        f"{number}/{name}" for number, name in enumerate(plain) if not name.startswith(("com", "lpt"))
    )


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        (URI.replace("registries/azureml", "registries/nowhere"), "There is no registry nowhere"),
        (
            URI.replace("versions/4", "versions/9"),
            "There is no model Phi-3.5-mini-instruct:9 in registry azureml.",
        ),
        (
            f"azureml://subscriptions/{SUBSCRIPTION}/resourceGroups/rg-travel/workspaces/travel-ws/models/m/versions/1",
            "There is no model m:1 in workspace travel-ws.",
        ),
        (
            f"azureml://subscriptions/{SUBSCRIPTION}/resourceGroups/rg/workspaces/gone/models/m/versions/1",
            "There is no such workspace.",
        ),
    ],
)
def test_what_is_not_there(
    blobs: World, files: dict[str, bytes], tmp_path: Path, uri: str, sentence: str
) -> None:
    with pytest.raises(RequestError) as caught:
        download_model(uri, tmp_path, RecordingReporter())
    assert sentence in caught.value.title


def test_files_that_are_gone_from_the_storage(blobs: World, files: dict[str, bytes], tmp_path: Path) -> None:
    blobs.fake.registry[("azureml", "Phi-3.5-mini-instruct", "4")] = "models/none"
    with pytest.raises(RequestError, match="gone from the storage"):
        download_model(URI, tmp_path, RecordingReporter())


def test_a_disk_without_room_is_told_before_the_first_byte(
    blobs: World, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    class Usage:
        free = 1000

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage())
    with pytest.raises(LabError, match="not enough disk space"):
        download_model(URI, tmp_path, RecordingReporter())


def test_cancel_within_a_second(
    blobs: World, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLIVEPRESS_AZURE_PATIENCE", "60")
    blobs.fake.fault(host="blob", method="GET", path="safetensors", action="silence")
    report = RecordingReporter()

    def press() -> None:
        until(lambda: any(e.get("phase") == "download" and e["done"] for e in report.events))
        report.cancelled = True

    threading.Thread(target=press, daemon=True).start()
    with soon(), pytest.raises(Cancelled):
        download_model(URI, tmp_path, report)
    assert isinstance(report, Reporter)
