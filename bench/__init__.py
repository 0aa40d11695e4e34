"""Load, floors and comparisons: every claim about speed has a command here that prints its number (README.md says how to read them)."""
