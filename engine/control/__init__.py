"""Request and response over a Unix socket, one row per command.  Imports leaves only."""
