"""Resource Manager, Entra, Resource Graph and a model registry in one local TLS server, faults on demand.

Blob requests are passed on to Azurite, so that a test can count them and break them. The answers have
the shapes of the services' public REST interfaces.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.azure.azurite import ACCOUNT, KEY
from tests.azure.played import Played

TENANT = "11111111-1111-1111-1111-111111111111"
SUBSCRIPTION = "22222222-2222-2222-2222-222222222222"
USER = "ada@example.com"
CONTAINER = "azureml-blobstore"
ML = "Microsoft.MachineLearningServices"
PLANTED_REFRESH = "planted-refresh-token-0.AAAA"
PLANTED_DEVICE = "planted-device-code-BAQAB"


@dataclass
class Fault:
    """What to do instead of answering, for requests that fit."""

    path: str = ""
    host: str = ""
    method: str = ""
    status: int = 0
    code: str = ""
    message: str = "played by the test"
    headers: dict[str, str] = field(default_factory=dict)
    action: str = ""  # reset | silence | drip | short: half of the answer, then the line breaks
    times: int = -1  # how often; -1: for ever
    skip: int = 0  # let so many pass first

    def takes(self, host: str, method: str, target: str) -> bool:
        fits = re.search(self.host, host) and (not self.method or self.method == method)
        if not fits or not re.search(self.path, target) or self.times == 0:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1 if self.times > 0 else 0
        return True


@dataclass
class Request:
    """A request as it was seen."""

    host: str
    method: str
    target: str
    size: int

    @property
    def block(self) -> str | None:
        """The id of the block that it puts, decoded."""
        query = parse_qs(urlsplit(self.target).query)
        if self.method != "PUT" or query.get("comp") != ["block"]:
            return None
        return urlsplit(self.target).path + "#" + base64.b64decode(query["blockid"][0]).decode()


def _b64(data: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(data).encode()).decode().rstrip("=")


class FakeAzure:
    """The services. Change its attributes to change what they say."""

    def __init__(self, cert: Path, key: Path, azurite_port: int | None = None) -> None:
        self.azurite_port = azurite_port
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.in_flight = 0
        self.reset()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        fake = self

        class Handler(_Handler):
            service = fake

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def finish_request(self, request: Any, client_address: Any) -> None:
                try:
                    with context.wrap_socket(request, server_side=True) as tls:
                        super().finish_request(tls, client_address)
                except OSError:
                    pass  # the client went away, as some tests want

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def reset(self) -> None:
        """Everything as at the start, except what lies in Azurite."""
        with self.lock:
            self.faults.clear()
            self.requests.clear()
        self.approved = threading.Event()
        self.user, self.tenant = USER, TENANT
        self.device_error = ""
        self.expires_in, self.interval = 900, 1
        self.token_error = ""
        self.client_secret = "planted-client-secret-Q8~"
        self.subscriptions = {SUBSCRIPTION: "Workshop", "33333333-3333-3333-3333-333333333333": "Other"}
        self.workspaces = [
            {"name": "travel-ws", "rg": "rg-travel", "sub": SUBSCRIPTION, "location": "westeurope"},
            {"name": "second-ws", "rg": "rg-two", "sub": SUBSCRIPTION, "location": "eastus"},
        ]
        self.graph = True
        self.actions = ["Microsoft.MachineLearningServices/workspaces/*/write", "*/read"]
        self.credentials_type = "Sas"
        self.sas_seconds = 3600.0
        self.container = CONTAINER
        self.clock_ahead = 0.0
        self.copies = True
        self.models: dict[str, dict[str, dict[str, Any]]] = {}
        self.unknown_is_404 = True
        self.registry: dict[tuple[str, str, str], str] = {}
        self.played = Played()

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def fault(self, **what: Any) -> Fault:
        """Arrange a fault; returned so that a test can end it."""
        fault = Fault(**what)
        with self.lock:
            self.faults.append(fault)
        return fault

    def seen(self, host: str = "", method: str = "", path: str = "") -> list[Request]:
        """The requests so far that fit."""
        with self.lock:
            return [
                r
                for r in self.requests
                if re.search(host, r.host)
                and (not method or r.method == method)
                and re.search(path, r.target)
            ]

    def blocks(self) -> list[str]:
        """The blocks that were put, one for each time."""
        return [block for request in self.seen(host="blob") if (block := request.block)]

    # Entra

    def token(self, scope: str) -> str:
        """An access token as the services would give: unsigned here."""
        resource = scope.split(maxsplit=1)[0].removesuffix(".default").rstrip("/")
        now = int(time.time())
        claims = {
            "aud": resource,
            "iss": f"https://sts.windows.net/{self.tenant}/",
            "tid": self.tenant,
            "upn": self.user,
            "oid": "44444444-4444-4444-4444-444444444444",
            "iat": now,
            "nbf": now - 10,
            "exp": now + 3600,
        }
        return f"{_b64({'alg': 'RS256', 'typ': 'JWT'})}.{_b64(claims)}.planted-signature"

    def tokens(self, form: dict[str, str]) -> dict[str, Any]:
        """The answer to a token request that was granted."""
        scope = form.get("scope", "https://management.azure.com/.default")
        scope = next((word for word in scope.split() if word.startswith("https://")), scope)
        answer: dict[str, Any] = {
            "token_type": "Bearer",
            "scope": scope,
            "expires_in": 3600,
            "ext_expires_in": 3600,
        }
        answer["access_token"] = self.token(scope)
        if form.get("grant_type") != "client_credentials":
            home = {"uid": "44444444-4444-4444-4444-444444444444", "utid": self.tenant}
            identity = {
                "aud": form.get("client_id", ""),
                "iss": f"https://login.microsoftonline.com/{self.tenant}/v2.0",
                "tid": self.tenant,
                "preferred_username": self.user,
                "sub": "sub",
                "oid": home["uid"],
                "exp": int(time.time()) + 3600,
            }
            answer["refresh_token"] = PLANTED_REFRESH
            answer["id_token"] = f"{_b64({'alg': 'none'})}.{_b64(identity)}."
            answer["client_info"] = _b64(home)
        return answer

    def sas(self) -> str:
        """A signature for the container, as listSecrets gives it."""
        from azure.storage.blob import ContainerSasPermissions, generate_container_sas

        end = datetime.now(UTC) + timedelta(seconds=self.sas_seconds)
        allowed = ContainerSasPermissions(
            read=True, write=True, create=True, list=True, delete=True, add=True
        )
        return str(
            generate_container_sas(ACCOUNT, self.container, account_key=KEY, permission=allowed, expiry=end)
        )

    def make_container(self, name: str = CONTAINER) -> Any:
        """The container in Azurite, made; a client of it that goes around the fake."""
        import requests
        from azure.core.exceptions import ResourceExistsError
        from azure.core.pipeline.transport import RequestsTransport
        from azure.storage.blob import ContainerClient

        session = requests.Session()
        session.trust_env = False  # around the proxy, whatever the test's environment says
        client = ContainerClient(
            f"http://127.0.0.1:{self.azurite_port}/{ACCOUNT}",
            name,
            credential={"account_name": ACCOUNT, "account_key": KEY},
            transport=RequestsTransport(session=session, session_owner=True, use_env_settings=False),
        )
        with contextlib.suppress(ResourceExistsError):
            client.create_container()
        return client


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service: FakeAzure
    wbufsize = -1

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The service's clock, which may not be this machine's."""
        return super().date_time_string((timestamp or time.time()) + self.service.clock_ahead)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on standard error."""

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def _any(self) -> None:
        fake = self.service
        host = self.headers.get("Host", "").split(":")[0]
        size = int(self.headers.get("Content-Length") or 0)
        with fake.lock:
            fault = next((f for f in fake.faults if f.takes(host, self.command, self.path)), None)
        if fault and fault.action and fault.action != "short":
            self._break(fault)
            return
        body = self.rfile.read(size) if size else b""
        with fake.lock:
            fake.requests.append(Request(host, self.command, self.path, size))
            fake.in_flight += 1
        try:
            if fault and not fault.action:
                self._refuse(fault, host)
            elif ".blob." in host:
                self._blob(host, body, short=fault is not None)
            else:
                self._answer(host, body)
        finally:
            with fake.lock:
                fake.in_flight -= 1

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_PATCH = _any

    def _break(self, fault: Fault) -> None:
        self.close_connection = True
        if fault.action == "silence":
            self.service.closing.wait(60)
            return
        if fault.action == "drip":
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while not self.service.closing.wait(0.1):
                    self.wfile.write(b" ")
                    self.wfile.flush()
            return
        raw: socket.socket = self.connection
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.close(raw.detach())

    def _refuse(self, fault: Fault, host: str) -> None:
        if ".blob." in host:
            text = f'<?xml version="1.0"?><Error><Code>{fault.code}</Code><Message>{fault.message}</Message></Error>'
            headers = {"Content-Type": "application/xml", "x-ms-error-code": fault.code, **fault.headers}
            self._send(fault.status, b"" if self.command == "HEAD" else text.encode(), headers)
        else:
            self._json({"error": {"code": fault.code, "message": fault.message}}, fault.status, fault.headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, data: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(data).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _none(self, code: str, message: str = "not found") -> None:
        self._json({"error": {"code": code, "message": message}}, 404)

    def _blob(self, host: str, body: bytes, short: bool = False) -> None:
        """Pass on to Azurite; a signed-in user's token becomes a signature, which Azurite knows."""
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("connection", "content-length")}
        target = self.path
        if self.headers.get("Authorization", "").startswith("Bearer "):
            headers.pop("Authorization")
            target += ("&" if "?" in target else "?") + self.service.sas()
        if source := headers.get("x-ms-copy-source"):
            # Azurite would look at it by its public name: here the name and the signature are looked at, and it reads.
            address, _, signature = source.partition("?")
            signed = "sig=" in signature or "sig=" not in self.path
            if not address.startswith(f"https://{host}/") or not signed or not self.service.copies:
                self._refuse(Fault(status=403, code="CannotVerifyCopySource"), host)
                return
            headers["x-ms-copy-source"] = address
        connection = self.__dict__.get("_azurite")
        if connection is None:
            connection = self._azurite = http.client.HTTPConnection(
                "127.0.0.1", self.service.azurite_port or 0
            )
        headers["Content-Length"] = str(len(body))
        connection.request(self.command, target, body or None, headers)
        answer = connection.getresponse()
        data = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in (
                "transfer-encoding",
                "connection",
                "content-length",
                "keep-alive",
                "date",
                "server",
            ):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if short else data)
        self.close_connection = self.close_connection or short

    def _answer(self, host: str, body: bytes) -> None:
        split = urlsplit(self.path)
        path, query = unquote(split.path), {k: v[0] for k, v in parse_qs(split.query).items()}
        if host.startswith("login."):
            self._entra(path, {k: v[0] for k, v in parse_qs(body.decode()).items()})
            return
        if ".inference." in host:
            self.service.played.score(self, json.loads(body))
            return
        if not self.headers.get("Authorization", "").startswith("Bearer ey"):
            self._json({"error": {"code": "AuthenticationFailed", "message": "no token"}}, 401)
            return
        data = json.loads(body) if body else {}
        for pattern, method, answer in self._routes():
            match = re.fullmatch(pattern, path, re.IGNORECASE)
            if match and method == self.command:
                answer(*match.groups(), query=query, data=data)
                return
        self._none("ResourceNotFound", f"no such route: {self.command} {path}")

    def _entra(self, path: str, form: dict[str, str]) -> None:
        fake = self.service
        base = f"https://login.microsoftonline.com/{fake.tenant}"
        if path.endswith("/discovery/instance"):
            self._json(
                {"tenant_discovery_endpoint": f"{base}/v2.0/.well-known/openid-configuration", "metadata": []}
            )
        elif path.endswith("openid-configuration"):
            tenant = path.split("/")[1]
            here = f"https://login.microsoftonline.com/{tenant}"
            self._json(
                {
                    "issuer": f"{base}/v2.0",
                    "authorization_endpoint": f"{here}/oauth2/v2.0/authorize",
                    "token_endpoint": f"{here}/oauth2/v2.0/token",
                    "device_authorization_endpoint": f"{here}/oauth2/v2.0/devicecode",
                }
            )
        elif path.endswith("/devicecode"):
            self._json(
                {
                    "device_code": PLANTED_DEVICE,
                    "user_code": "ABCD-EFGH",
                    "verification_uri": "https://microsoft.com/devicelogin",
                    "expires_in": fake.expires_in,
                    "interval": fake.interval,
                    "message": "enter the code",
                }
            )
        elif path.endswith("/token"):
            self._token(form)
        else:
            self._none("ResourceNotFound")

    def _token(self, form: dict[str, str]) -> None:
        fake, grant = self.service, form.get("grant_type", "")

        def no(error: str, text: str) -> None:
            self._json({"error": error, "error_description": text, "error_codes": []}, 400)

        if grant.endswith("device_code"):
            if fake.device_error == "authorization_declined":
                no(fake.device_error, "the person said no")
            elif fake.device_error:
                no(
                    "invalid_grant",
                    f"{fake.device_error}: refused by the test. device_code={form.get('device_code')}",
                )
            elif fake.approved.is_set():
                self._json(fake.tokens(form))
            else:
                no("authorization_pending", "AADSTS70016: pending")
        elif fake.token_error:
            no("invalid_grant", f"{fake.token_error}: refused by the test")
        elif grant == "client_credentials" and form.get("client_secret") != fake.client_secret:
            no("invalid_client", "AADSTS7000215: Invalid client secret provided.")
        else:
            self._json(fake.tokens(form))

    def _routes(self) -> list[tuple[str, str, Callable[..., None]]]:
        space = rf"/subscriptions/([^/]+)/resourceGroups/([^/]+)/providers/{ML}/workspaces/([^/]+)"
        root = "/mferp/managementfrontend/subscriptions/[^/]+/resourceGroups/[^/]+"
        registry = rf"{root}/providers/{ML}/registries/([^/]+)"
        return [
            ("/subscriptions", "GET", self._subscriptions),
            ("/providers/Microsoft.ResourceGraph/resources", "POST", self._graph),
            (rf"/subscriptions/([^/]+)/providers/{ML}/workspaces", "GET", self._spaces),
            (space, "GET", self._space),
            (space + "/providers/Microsoft.Authorization/permissions", "GET", self._permissions),
            (space + "/datastores", "GET", self._datastores),
            (space + "/datastores/([^/]+)", "GET", self._datastore),
            (space + "/datastores/([^/]+)/listSecrets", "POST", self._secrets),
            (space + "/models", "GET", self._models),
            (space + "/models/([^/]+)", "GET", self._model),
            (space + "/models/([^/]+)/versions", "GET", self._versions),
            (space + "/models/([^/]+)/versions/([^/]+)", "GET", self._version),
            (space + "/models/([^/]+)/versions/([^/]+)", "PUT", self._register),
            (r"/registrymanagement/v1.0/registries/([^/]+)/discovery", "GET", self._discovery),
            (registry + "/models/([^/]+)/versions/([^/]+)", "GET", self._registry_model),
            (registry + "/models/([^/]+)/versions", "GET", self._registry_versions),
            (registry + "/datarefs/([^/]+)/versions/([^/]+)", "POST", self._dataref),
            *self.service.played.routes(self),
        ]

    def _subscriptions(self, query: Any, data: Any) -> None:
        rows = [
            {"subscriptionId": key, "displayName": name, "state": "Enabled", "tenantId": self.service.tenant}
            for key, name in self.service.subscriptions.items()
        ]
        self._json({"value": rows})

    def _graph(self, query: Any, data: Any) -> None:
        if not self.service.graph:
            self._json({"error": {"code": "AuthorizationFailed", "message": "no Resource Graph"}}, 403)
            return
        rows = [
            {
                "name": w["name"],
                "resourceGroup": w["rg"],
                "subscriptionId": w["sub"],
                "location": w["location"],
            }
            for w in self.service.workspaces
        ]
        self._json({"totalRecords": len(rows), "count": len(rows), "data": rows, "resultTruncated": "false"})

    def _space_json(self, w: dict[str, str]) -> dict[str, Any]:
        path = f"/subscriptions/{w['sub']}/resourceGroups/{w['rg']}/providers/{ML}/workspaces/{w['name']}"
        return {"id": path, "name": w["name"], "location": w["location"], "properties": {}}

    def _spaces(self, subscription: str, query: Any, data: Any) -> None:
        rows = [self._space_json(w) for w in self.service.workspaces if w["sub"] == subscription]
        if "page" not in query and len(rows) > 1:
            following = (
                f"https://management.azure.com{urlsplit(self.path).path}?api-version=2024-10-01&page=2"
            )
            self._json({"value": rows[:1], "nextLink": following})
        else:
            self._json({"value": rows[1:] if "page" in query else rows})

    def _find(self, sub: str, rg: str, name: str) -> dict[str, str] | None:
        for w in self.service.workspaces:
            if (w["sub"], w["rg"].lower(), w["name"].lower()) == (sub, rg.lower(), name.lower()):
                return w
        message = f"The Resource '{ML}/workspaces/{name}' under resource group '{rg}' was not found."
        self._none("ResourceNotFound", message)
        return None

    def _space(self, sub: str, rg: str, name: str, query: Any, data: Any) -> None:
        if w := self._find(sub, rg, name):
            self._json(self._space_json(w))

    def _permissions(self, sub: str, rg: str, name: str, query: Any, data: Any) -> None:
        self._json({"value": [{"actions": self.service.actions, "notActions": []}]})

    def _store(self, name: str) -> dict[str, Any]:
        fake = self.service
        return {
            "id": f"/datastores/{name}",
            "name": name,
            "type": f"{ML}/workspaces/datastores",
            "properties": {
                "isDefault": name == "workspaceblobstore",
                "credentials": {"credentialsType": fake.credentials_type},
                "datastoreType": "AzureBlob",
                "accountName": ACCOUNT,
                "containerName": fake.container,
                "endpoint": "core.windows.net",
                "protocol": "https",
                "serviceDataAccessAuthIdentity": "None",
            },
            "systemData": {},
        }

    def _datastores(self, sub: str, rg: str, name: str, query: Any, data: Any) -> None:
        if self._find(sub, rg, name):
            self._json({"value": [self._store("workspaceblobstore")]})

    def _datastore(self, sub: str, rg: str, name: str, store: str, query: Any, data: Any) -> None:
        if self._find(sub, rg, name):
            self._json(self._store(store))

    def _secrets(self, sub: str, rg: str, name: str, store: str, query: Any, data: Any) -> None:
        fake = self.service
        if fake.credentials_type == "AccountKey":
            self._json({"secretsType": "AccountKey", "key": KEY})
        else:
            self._json({"secretsType": "Sas", "sasToken": fake.sas()})

    def _models(self, sub: str, rg: str, name: str, query: Any, data: Any) -> None:
        if self._find(sub, rg, name):
            self._json(
                {
                    "value": [
                        {"id": f"/models/{key}", "name": key, "properties": {}} for key in self.service.models
                    ]
                }
            )

    def _unknown(self, name: str) -> None:
        if self.service.unknown_is_404:
            self._none("UserError", f"Not found model {name}")
        else:
            self._json({"value": []})

    def _model(self, sub: str, rg: str, ws: str, name: str, query: Any, data: Any) -> None:
        versions = self.service.models.get(name)
        if not versions:
            self._none("UserError", f"Not found model {name}")
            return
        latest = max(int(v) for v in versions if v.isdigit())
        said = {"latestVersion": str(latest), "nextVersion": str(latest + 1), "isArchived": False}
        self._json({"id": f"/models/{name}", "name": name, "properties": said})

    def _versions(self, sub: str, rg: str, ws: str, name: str, query: Any, data: Any) -> None:
        if not self._find(sub, rg, ws):
            return
        versions = self.service.models.get(name)
        if versions is None:
            self._unknown(name)
        else:
            self._json({"value": list(versions.values())})

    def _version(self, sub: str, rg: str, ws: str, name: str, version: str, query: Any, data: Any) -> None:
        if not self._find(sub, rg, ws):
            return
        found = self.service.models.get(name, {}).get(version)
        if found is None:
            self._none("UserError", f"Not found model {name} version {version}")
        else:
            self._json(found)

    def _register(self, sub: str, rg: str, ws: str, name: str, version: str, query: Any, data: Any) -> None:
        if not self._find(sub, rg, ws):
            return
        said = data["properties"]
        before = self.service.models.setdefault(name, {}).get(version)
        if before and before["properties"]["modelUri"].lower() != said["modelUri"].lower():
            self._json(
                {"error": {"code": "UserError", "message": "A model with this version exists already."}}, 400
            )
            return
        space = f"/subscriptions/{sub}/resourceGroups/{rg}/providers/{ML}/workspaces/{ws}"
        path = f"{space}/models/{name}/versions/{version}"
        stamp = datetime.now(UTC).isoformat()
        self.service.models[name][version] = {
            "id": path,
            "name": version,
            "type": f"{ML}/workspaces/models/versions",
            "properties": {**said, "flavors": {}},
            "systemData": {"createdAt": stamp, "lastModifiedAt": stamp},
        }
        self._json(self.service.models[name][version], 200 if before else 201)

    def _discovery(self, name: str, query: Any, data: Any) -> None:
        if not any(key[0] == name for key in self.service.registry):
            self._none("RegistryNotFound", f"Registry {name} was not found")
            return
        self._json(
            {
                "registryName": name,
                "primaryRegionResourceProviderUri": "https://cert-eastus.experiments.azureml.net/",
                "resourceGroup": "rg-registry",
                "subscriptionId": SUBSCRIPTION,
            }
        )

    def _registry_model(self, registry: str, name: str, version: str, query: Any, data: Any) -> None:
        prefix = self.service.registry.get((registry, name, version))
        if prefix is None:
            self._none("UserError", f"Not found model {name} version {version}")
            return
        uri = f"https://{ACCOUNT}.blob.core.windows.net/{self.service.container}/{prefix}"
        self._json({"id": f"azureml://registries/{registry}/models/{name}/versions/{version}", "name": version,
                    "properties": {"modelUri": uri, "tags": {}, "properties": {}}})  # fmt: skip

    def _registry_versions(self, registry: str, name: str, query: Any, data: Any) -> None:
        versions = [key[2] for key in self.service.registry if key[:2] == (registry, name)]
        self._json({"value": [{"name": version, "properties": {}} for version in versions]})

    def _dataref(self, registry: str, name: str, version: str, query: Any, data: Any) -> None:
        base = f"https://{ACCOUNT}.blob.core.windows.net/{self.service.container}"
        credential = {"credentialType": "SAS", "sasUri": f"{base}?{self.service.sas()}"}
        self._json({"blobReferenceForConsumption": {"blobUri": data["blobUri"], "credential": credential}})
