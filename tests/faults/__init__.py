"""Faults injected into running jobs at moments chosen by a seed, and what must be true afterwards."""
