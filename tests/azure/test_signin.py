"""Signing in: each way, what is remembered, and each refusal with its sentence."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from core.azure import signin
from core.azure.rest import cloud
from core.azure.retry import Stop
from core.azure.signin import STORAGE_SCOPE, Prompt
from core.errors import Cancelled, MachineError
from tests.azure.conftest import World
from tests.azure.fake import PLANTED_REFRESH, TENANT, USER
from tests.azure.labs import signed_in
from tests.waiting import soon, until


def device(azure: World, **options: object) -> tuple[signin.Identity, list[Prompt]]:
    prompts: list[Prompt] = []

    def shown(prompt: Prompt) -> None:
        prompts.append(prompt)
        azure.fake.approved.set()

    return signin.sign_in("device", on_prompt=shown, **options), prompts  # type: ignore[arg-type]


def test_device_code_shows_the_code_and_remembers_whom(azure: World) -> None:
    identity, prompts = device(azure, may_write_file=True)
    assert (identity.user, identity.tenant, identity.method) == (USER, TENANT, "device")
    assert prompts[0].code == "ABCD-EFGH"
    assert prompts[0].uri == "https://microsoft.com/devicelogin"
    assert 880 < prompts[0].expires.timestamp() - time.time() <= 900

    again = signin.current()
    assert again.user == USER
    assert again.credential.get_token(STORAGE_SCOPE).token != again.credential.get_token(cloud().scope).token
    assert len(azure.fake.seen(path="devicecode")) == 1, "the second time needs no prompt"
    assert azure.proxy.refused == [], "no other host was asked for"


def test_a_kept_token_is_a_file_only_its_user_reads(azure: World) -> None:
    identity, _ = device(azure, may_write_file=True)
    assert identity.keep == "file"
    files = [p for p in Path(os.environ["HOME"]).rglob("*") if p.is_file()]
    with_token = [p for p in files if PLANTED_REFRESH in p.read_text(errors="replace")]
    assert len(with_token) == 1
    assert stat.S_IMODE(with_token[0].stat().st_mode) == 0o600
    signin.sign_out()
    left = [p for p in Path(os.environ["HOME"]).rglob("*") if p.is_file()]
    assert [p for p in left if PLANTED_REFRESH in p.read_text(errors="replace")] == []
    with pytest.raises(MachineError, match="not signed in"):
        signin.current()


def test_without_consent_no_token_is_written(azure: World) -> None:
    identity, _ = device(azure, may_write_file=False)
    assert identity.keep == "none"
    for path in Path(os.environ["HOME"]).rglob("*"):
        assert not path.is_file() or PLANTED_REFRESH not in path.read_text(errors="replace")
    assert signin.current() is identity, "for the life of the program"
    signin._this_program.clear()  # another program
    with pytest.raises(MachineError, match="was not kept"):
        signin.current()


def test_cancel_gives_a_device_code_up_at_once(azure: World) -> None:
    from core.azure.retry import cancellable
    from core.events import RecordingReporter

    report = RecordingReporter()
    shown = threading.Event()

    def work(stop: Stop, _: object) -> signin.Identity:
        return signin.sign_in("device", on_prompt=lambda prompt: shown.set(), stop=stop)

    def press() -> None:
        shown.wait(10)
        report.cancelled = True

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(Cancelled):
        cancellable(work, report)
    assert shown.is_set()
    assert signin.remembered() is None
    polls = len(azure.fake.seen(path="/token"))
    azure.fake.approved.set()
    until(lambda: all(thread.name != "azure" for thread in threading.enumerate()))
    assert len(azure.fake.seen(path="/token")) == polls, "nothing is asked for after a cancel"


@pytest.mark.parametrize(
    ("code", "sentence", "hint"),
    [
        (
            "AADSTS53003",
            "Your organisation does not allow signing in this way (conditional access).",
            "az login",
        ),
        ("AADSTS70020", "The code was not entered in time.", "olivepress login"),
        ("AADSTS50020", "This account does not belong to that tenant.", "--tenant"),
        ("AADSTS65004", "The sign-in was not consented to.", "administrator"),
        ("authorization_declined", "The sign-in was declined.", "olivepress login"),
    ],
)
def test_entra_refuses_a_device_code(azure: World, code: str, sentence: str, hint: str) -> None:
    azure.fake.device_error = code
    with soon(), pytest.raises(MachineError) as caught:
        signin.sign_in("device", on_prompt=lambda prompt: None)
    assert caught.value.title == sentence
    assert hint in caught.value.hint
    assert code in caught.value.detail or code == "authorization_declined"
    assert "planted" not in str(caught.value)


def test_a_code_that_nobody_enters_ends(azure: World) -> None:
    azure.fake.expires_in = 2
    with soon(), pytest.raises(MachineError, match="not entered in time"):
        signin.sign_in("device", on_prompt=lambda prompt: None)


def test_an_expired_sign_in_says_so(azure: World) -> None:
    device(azure, may_write_file=True)
    azure.fake.token_error = "AADSTS700082"
    with pytest.raises(MachineError) as caught:
        signin.current().credential.get_token(STORAGE_SCOPE)
    assert caught.value.title == "Your Azure sign-in has expired."
    assert caught.value.hint == "Run: olivepress login"


def test_a_service_principal_of_the_environment_needs_no_choice(
    azure: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    azure.fake.user = ""
    monkeypatch.setenv("AZURE_CLIENT_ID", "55555555-5555-5555-5555-555555555555")
    monkeypatch.setenv("AZURE_TENANT_ID", TENANT)
    monkeypatch.setenv("AZURE_CLIENT_SECRET", azure.fake.client_secret)
    identity = signin.current()
    assert identity.method == "environment"
    assert identity.tenant == TENANT

    monkeypatch.setenv("AZURE_CLIENT_SECRET", "planted-wrong-secret")
    with pytest.raises(MachineError) as caught:
        signin.sign_in("environment")
    assert caught.value.title == "The service principal was refused."
    assert "planted" not in str(caught.value)


def test_the_choice_is_remembered_and_switched_at_will(azure: World, monkeypatch: pytest.MonkeyPatch) -> None:
    device(azure, may_write_file=True)
    monkeypatch.setenv("AZURE_CLIENT_ID", "55555555-5555-5555-5555-555555555555")
    monkeypatch.setenv("AZURE_TENANT_ID", TENANT)
    monkeypatch.setenv("AZURE_CLIENT_SECRET", azure.fake.client_secret)
    assert signin.current().method == "device", "what was chosen goes before what is found"
    signin.sign_in("environment")
    assert signin.current().method == "environment"
    files = [p for p in Path(os.environ["HOME"]).rglob("*") if p.is_file()]
    assert [p for p in files if PLANTED_REFRESH in p.read_text(errors="replace")] == [], (
        "the old token is gone"
    )


def fake_cli(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    script = folder / "az"
    script.write_text("#!/bin/sh\n" + body)
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_the_cli_session_is_used_first_and_started_once(
    azure: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = azure.fake.token("https://management.azure.com/.default")
    answer = f'{{"accessToken": "{token}", "expires_on": {int(time.time()) + 3600}, "tenant": "{TENANT}"}}'
    fake_cli(tmp_path / "bin", f"echo x >> {tmp_path}/starts\necho '{answer}'\n", monkeypatch)
    identity = signin.sign_in()
    assert (identity.method, identity.user) == ("cli", USER)
    for _ in range(5):
        identity.credential.get_token(cloud().scope)
    assert (tmp_path / "starts").read_text().count("x") == 1
    assert not azure.fake.seen(path="devicecode")


def test_a_cli_that_is_not_signed_in_or_not_there(
    azure: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MachineError) as caught:
        signin.sign_in("cli")
    assert caught.value.title == "The Azure CLI is not installed."
    fake_cli(tmp_path / "bin", "echo \"Please run 'az login' to setup account.\" >&2\nexit 1\n", monkeypatch)
    with pytest.raises(MachineError) as caught:
        signin.sign_in("cli")
    assert caught.value.title == "The Azure CLI is not signed in."


def test_a_cli_that_hangs_is_left(azure: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cli(tmp_path / "bin", "exec sleep 60\n", monkeypatch)
    with soon(), pytest.raises(MachineError) as caught:
        signin.sign_in("cli")
    assert caught.value.title == "The Azure CLI does not answer."


@pytest.mark.parametrize("action", ["silence", "reset", "drip"])
def test_an_entra_that_does_not_answer_ends_in_time(azure: World, action: str) -> None:
    azure.fake.fault(host="login", path="devicecode", action=action)
    with soon(), pytest.raises(Exception, match=r"does not answer|line to Azure broke"):
        signin.sign_in("device", on_prompt=lambda prompt: None)


# What is found in the environment and cannot be used: the reason is said, and not that nobody is signed in.


def a_dead_proxy(azure: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")


def a_proxy_that_nobody_knows(azure: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://no-such-proxy.invalid:8080")


def a_certificate_of_somebody_else(azure: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tests.azure.certs import make_certificates

    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(make_certificates(tmp_path / "other")[0]))


def a_wrong_secret(azure: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "planted-wrong")


def a_wrong_clock(azure: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "planted-wrong")
    azure.fake.clock_ahead = 3600.0


def no_certificate(azure: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AZURE_CLIENT_SECRET")
    monkeypatch.setenv("AZURE_CLIENT_CERTIFICATE_PATH", str(tmp_path / "none.pem"))


def a_bad_certificate(azure: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_certificate(azure, monkeypatch, tmp_path)
    (tmp_path / "none.pem").write_text("no certificate")


def a_malformed_tenant(azure: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AZURE_TENANT_ID", "not a tenant/")


def no_federated_token(azure: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AZURE_CLIENT_SECRET")
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("day", "code", "word"),
    [
        (a_dead_proxy, "azure.connection", ""),
        (a_proxy_that_nobody_knows, "azure.connection", "proxy"),
        (a_certificate_of_somebody_else, "azure.certificate", ""),
        (a_wrong_secret, "azure.principal", ""),
        (a_wrong_clock, "azure.clock", ""),
        (no_certificate, "azure.principal", ""),
        (a_bad_certificate, "azure.principal", ""),
        (a_malformed_tenant, "azure.principal", ""),
        (no_federated_token, "azure.principal", ""),
    ],
)
def test_the_true_reason_is_told(
    azure: World,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    day: Callable[..., None],
    code: str,
    word: str,
) -> None:
    signed_in(azure, monkeypatch)
    monkeypatch.setenv("OLIVEPRESS_AZURE_PATIENCE", "0.5")
    day(azure, monkeypatch, tmp_path)
    with pytest.raises(MachineError) as caught:
        signin.current()
    assert caught.value.code == code
    assert caught.value.title != "You are not signed in to Azure."
    assert caught.value.hint
    assert "planted" not in str(caught.value)
    assert word in caught.value.title


def test_a_malformed_tenant_of_ones_own(azure: World) -> None:
    with pytest.raises(MachineError) as caught:
        signin.sign_in("device", tenant="not a tenant/", on_prompt=lambda prompt: None)
    assert caught.value.code == "azure.tenant"


def test_the_folder_of_tokens_is_its_users_alone(azure: World) -> None:
    device(azure, may_write_file=True)
    folder = Path(os.environ["HOME"]) / ".IdentityService"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
