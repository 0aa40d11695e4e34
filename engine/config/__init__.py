"""PowerMTA's configuration language: text to a typed, frozen model.  Pure; imports leaves only."""
