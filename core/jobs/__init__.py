"""Jobs: each run of a stage is a process of its own that outlives whoever started it.

A job is a folder, ``jobs/<stage>-<NNN>``. Whoever wants to know reads the folder: the one who
started it, a second terminal, or the same user a day later.
"""

from __future__ import annotations

from core.jobs.job import ACTIVE, FINAL, Job, JobStatus
from core.jobs.start import list_jobs, start_job

__all__ = ["ACTIVE", "FINAL", "Job", "JobStatus", "list_jobs", "start_job"]
