"""The sizes of a terminal at which the screens are laid out otherwise."""

SMALLEST = (60, 20)
"""Cells and lines below which nothing is drawn but that it is too small."""
TALL = 32
"""Lines from which there is room for frames."""
ROOMY = 45
"""Lines from which all settings are shown, and what a step is about also while it runs."""
WIDE = 100
"""Cells from which a panel may stand beside the step, over its margin."""
COLUMNS = 150
"""Cells from which what stands below the body stands beside it."""
