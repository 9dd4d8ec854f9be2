"""``python -m core.cli`` does what ``olivepress`` does."""

from core.cli import script

script()
