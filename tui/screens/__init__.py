"""One module and one style sheet for each step of the lab."""
