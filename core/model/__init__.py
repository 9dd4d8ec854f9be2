"""What a model folder is, and how the model reads a conversation."""
