"""Puts the quick stages in the place of the real ones; named by ``OLIVEPRESS_PLUGIN``, so that jobs see them as well.

Loaded in the processes of a lab only: a test that imported it would change the lists for all tests.
"""

from __future__ import annotations

from dataclasses import replace

from core.stages import STAGES

for _name in ("quantize", "finetune"):
    STAGES[_name] = replace(STAGES[_name], run=f"tests.fake_stages.{_name}.stage")
