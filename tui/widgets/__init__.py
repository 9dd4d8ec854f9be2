"""Widgets that the wizard's screens share."""
