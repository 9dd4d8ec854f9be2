"""The wizard's own fixtures hold here as well."""

from tests.tui.conftest import _quiet, lab

__all__ = ["_quiet", "lab"]
