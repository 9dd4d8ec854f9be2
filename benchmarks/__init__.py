"""Programs that print the figures quoted in the README and in docs/benchmarks.md."""
