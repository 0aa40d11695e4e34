"""SMTP in: one process per listener slot, feeding bytes to smtp.server and messages to reception."""
