"""SMTP out: one process per delivery slot, doing what the scheduler decides."""
