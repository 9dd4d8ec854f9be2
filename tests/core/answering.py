"""A child process for the tests of :mod:`core.process`: does what it is asked, good or bad."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from core.errors import RequestError
from core.process import Request, serve


def answer(request: Request) -> dict[str, Any] | None:
    """Do what ``do`` says."""
    ask = request.ask
    match ask["do"]:
        case "echo":
            return {"echo": ask["text"]}
        case "count":
            for number in range(ask["to"]):
                request.tell({"number": number})
            return {"counted": ask["to"]}
        case "until cancelled":
            request.tell({"begun": True})
            while not request.cancelled:
                time.sleep(0.005)
            request.check_cancelled()
        case "report":
            report = request.reporter()
            report.progress("Reading", 1, 2)
            report.metric("loss", 0.5, 3)
            report.log("https://user:secret@host")
        case "refuse":
            raise RequestError("No.", "The reason.", "The way out.", code="test.no")
        case "fault":
            raise KeyError("what nobody thought of")
        case "memory":
            raise MemoryError
        case "no JSON":
            return {"this": object()}
        case "long":
            return {"text": "x" * ask["size"]}
        case "print":
            print("printed by Python")
            sys.stdout.flush()
            os.write(1, b"printed by native code\n")
        case "garbage":
            for line in (
                b"\xff\xfe{",
                b"[" * 100_000,
                b"{}",
                b"7",
                b'{"id": "x"}',
                b'{"id": 99, "event": {}}',
                b"",
            ):
                os.write(request._channel._out, line + b"\n")
        case "nonsense":
            os.write(request._channel._out, b'{"id": %d, "neither": 1}\n' % request.id)
        case "endless line":
            while True:
                os.write(request._channel._out, b"x" * 65536)
        case "half a line":
            os.write(request._channel._out, b'{"id": %d, "resu' % request.id)
            os._exit(3)
        case "die":
            print("the last words", file=sys.stderr)
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(7)
        case "hang":
            request.tell({"begun": True})
            threading.Event().wait()
        case "hang with a child":
            sleeper = subprocess.Popen(["sleep", "1000"])
            request.tell({"pid": sleeper.pid})
            threading.Event().wait()
        case "close output":
            os.close(request._channel._out)
            threading.Event().wait()
    return None


if __name__ == "__main__":
    serve(answer, grace_s=float(sys.argv[1]) if sys.argv[1:] else 1.0, longest_line=1 << 20)
