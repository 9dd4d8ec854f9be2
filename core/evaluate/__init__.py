"""Was it worth it? The lab's variants measured on the same held-out records, each in a process of its own."""
