"""``olivepress serve``: the lab's model for programs that speak to OpenAI's API."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from core.cli.parser import add_folder, add_json, whole_number
from core.errors import LabError, RequestError
from core.language import _, told
from core.text import clean

if TYPE_CHECKING:
    from core.serve.server import ModelServer

KEY_VARIABLE = "OLIVEPRESS_SERVE_KEY"
_LARGEST_PORT = 65_535


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "serve",
        help=_("an OpenAI-compatible server of base and adapters"),
        description=_(
            "Serve the optimized model to programs that speak to OpenAI's API: the base by the lab's "
            "name, each adapter as NAME:ADAPTER. Only this machine can ask unless --host says "
            "otherwise. Ctrl-C ends it."
        ),
    )
    add_folder(parser)
    parser.add_argument(
        "--port", type=_port, default=8000, metavar="N", help=_("0 for any that is free (default: 8000)")
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help=_("the address to listen on (default: 127.0.0.1)"),
    )
    parser.add_argument(
        "--key-file",
        metavar="FILE",
        help=_(
            "a file with the key that clients must send (or set {key_variable})", key_variable=KEY_VARIABLE
        ),
    )
    parser.add_argument(
        "--allow-origin", action="append", default=[], metavar="ORIGIN", help=_("web pages that may ask")
    )
    parser.add_argument(
        "--queue", type=whole_number, default=64, metavar="N", help=_("requests that may wait (default: 64)")
    )
    parser.add_argument(
        "--time-limit",
        type=whole_number,
        default=600,
        metavar="N",
        help=_("seconds that a request may wait, and then be answered (default: 600)"),
    )
    parser.add_argument(
        "--max-tokens",
        type=whole_number,
        metavar="N",
        help=_("the longest answer (default: what the context holds)"),
    )
    parser.add_argument(
        "--cache-mib",
        type=whole_number,
        default=1024,
        metavar="N",
        help=_("memory for conversations that go on, in MiB (default: 1024)"),
    )
    add_json(parser, _("print one JSON object when it is ready, and nothing else on standard output"))
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    from core.lab import Lab
    from core.serve.model import Limits
    from core.serve.server import ModelServer

    lab = Lab.open(options.folder)
    limits = Limits(
        waiting=options.queue,
        seconds=options.time_limit,
        max_tokens=options.max_tokens or 0,
        cache_bytes=options.cache_mib << 20,
    )
    key = _key(options.key_file)
    server = ModelServer(
        lab,
        host=options.host,
        port=options.port,
        key=key,
        origins=options.allow_origin,
        limits=limits,
        on_log=_log,
    )
    before = {each: signal.signal(each, lambda *__: server.end()) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        with server:
            print(_("Loading the model. It will answer at {url}", url=server.url), file=sys.stderr)
            try:
                server.wait_ready()
            except LabError:
                if server.ended:  # by a signal, before the model was there
                    return 0
                raise
            _tell(server, options.json)
            server.wait()
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    print(_("The server has ended."), file=sys.stderr)
    return 0


def _tell(server: ModelServer, as_json: bool) -> None:
    if as_json:
        from core.cli.show import print_json

        print_json({"url": server.url, "models": server.models(), "pid": os.getpid()})
        return
    print(_("Serving at {url}   (Ctrl-C ends it)", url=server.url), flush=True)
    for name in server.models():
        print("  " + _("model {name}", name=clean(name, keep_newlines=False)), flush=True)


def _log(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def _key(file: str | None) -> str | None:
    """The key, and the variable gone from this process's environment, which the model's process inherits."""
    key = os.environ.pop(KEY_VARIABLE, None)
    if file is None:
        return key
    path = Path(file).expanduser()
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else told("it is not text")
        raise RequestError(
            told("The key's file cannot be read."),
            told("{path}: {why}.", path=path, why=why),
            told("Name a file with the key in it."),
            code="serve.key",
        ) from None


def _port(text: str) -> int:
    try:
        port = int(text)
    except ValueError:
        port = -1
    if not 0 <= port <= _LARGEST_PORT:
        raise argparse.ArgumentTypeError(
            told("{text} is no port: 0 to {largest_port}", text=repr(text), largest_port=_LARGEST_PORT)
        )
    return port
