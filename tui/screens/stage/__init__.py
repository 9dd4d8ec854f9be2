"""The step of every stage that runs as a job: a form, a run, its progress, its result."""
