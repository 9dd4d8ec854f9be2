"""Step 6: a conversation with the lab's model. The controller holds it, the screen draws what the controller tells."""
