"""Chat with the lab's model: a process of its own, a small typed protocol, transcripts, comparison.

Loads no native library here: those live in the worker process (:mod:`core.chat.worker`).
"""

from __future__ import annotations

from core.chat.protocol import ChatError
from core.chat.response import Answer, ChatEvent, Response, Turn
from core.chat.session import ChatSession
from core.chat.settings import Sampling

__all__ = ["Answer", "ChatError", "ChatEvent", "ChatSession", "Response", "Sampling", "Turn"]
