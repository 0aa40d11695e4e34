"""One process that drains the outbox into accounting files."""
