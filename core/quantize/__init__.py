"""Fewer bits for each weight: the stage, our AWQ pass, and what comes of it measured."""
