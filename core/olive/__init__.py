"""Running Olive's passes, and what we give to it."""
