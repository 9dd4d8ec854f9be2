"""The stages that run as jobs: quantize, finetune, optimize and upload.

Each is a module with ``fingerprint``, ``output`` and ``run`` (see :mod:`core.stages.base`), loaded
only in a job's own process.
"""

from __future__ import annotations

STAGES = ("quantize", "finetune", "optimize", "upload")
"""The names of the stages, in the order of the lab."""

DEFAULT_STAGES = STAGES[:3]
"""What ``olivepress run`` runs when no stage is named."""
