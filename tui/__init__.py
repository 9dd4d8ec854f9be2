"""The Textual wizard: seven screens over :class:`core.Lab`."""
