"""A stage on a machine of Azure ML: what goes up, the job there, following it, and bringing its result back."""
