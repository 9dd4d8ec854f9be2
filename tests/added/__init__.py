"""A stage and an algorithm more, each one entry and one module, to prove that the lists are the only ones."""
