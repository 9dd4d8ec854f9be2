"""The three computing stages, quick, with the inputs of the real ones: for tests of a whole workshop."""
