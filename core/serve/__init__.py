"""The lab's model over HTTP, as OpenAI's clients speak to one (docs/serve.md).

:class:`core.serve.server.ModelServer` starts and stops it. The model runs in a process of its own, as in the chat.
"""
