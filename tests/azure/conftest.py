"""The fake services, the proxy and Azurite, and an environment that leads the real clients there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.azure import azurite
from tests.azure.certs import make_certificates
from tests.azure.fake import FakeAzure
from tests.azure.proxy import ConnectProxy


@dataclass
class World:
    """The fake services and the proxy that leads to them."""

    fake: FakeAzure
    proxy: ConnectProxy
    ca: Path
    cert: Path
    key: Path

    def environment(self, home: Path, patience: float = 3.0) -> dict[str, str]:
        """The variables that lead a client there, with a home of its own."""
        return {
            "HTTPS_PROXY": self.proxy.url,
            "HTTP_PROXY": self.proxy.url,
            "NO_PROXY": "",
            "no_proxy": "",
            "REQUESTS_CA_BUNDLE": str(self.ca),
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "OLIVEPRESS_AZURE_PATIENCE": str(patience),
        }


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[azurite.Azurite]:
    """Azurite for the whole run; tests that need it are skipped with the reason where it is not."""
    reason = azurite.missing()
    if reason:
        pytest.skip(reason)
    running = azurite.Azurite(tmp_path_factory.mktemp("azurite"))
    yield running
    running.close()


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The fake services without storage, for the whole run."""
    ca, cert, key = make_certificates(tmp_path_factory.mktemp("certs"))
    fake = FakeAzure(cert, key)
    routes = dict.fromkeys(
        (
            "management.azure.com",
            "login.microsoftonline.com",
            ".blob.core.windows.net",
            ".api.azureml.ms",
            ".experiments.azureml.net",
            ".inference.ml.azure.com",
        ),
        fake.port,
    )
    proxy = ConnectProxy(routes)
    yield World(fake, proxy, ca, cert, key)
    proxy.close()
    fake.close()


@pytest.fixture
def azure(services: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The services, fresh, and this process led to them with a home of its own."""
    services.fake.reset()
    services.proxy.refused.clear()
    for name in set(os.environ) - {"OLIVEPRESS_GUIDE"}:  # no screen's guide is in the way
        if name.startswith(("AZURE_", "ARM_", "AZUREML_", "IDENTITY_", "MSI_", "OLIVEPRESS_")) or name.lower() in (
            "all_proxy", "https_proxy", "http_proxy", "no_proxy",
        ):  # fmt: skip
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    for name, value in services.environment(home).items():
        monkeypatch.setenv(name, value)
    # No Azure CLI of the developer's own.
    monkeypatch.setenv(
        "PATH", os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if not _has_az(p))
    )
    return services


def _has_az(folder: str) -> bool:
    return (Path(folder) / "az").exists()


@pytest.fixture
def blobs(azure: World, emulator: azurite.Azurite) -> World:
    """The services with storage behind them."""
    azure.fake.azurite_port = emulator.port
    azure.fake.make_container()
    return azure
