"""The result in the forms that other programs read: which there are (``forms``), and writing one (``write``)."""
