"""Stages for tests of jobs: quick, and as strange as the recipe's chat.system asks for."""
