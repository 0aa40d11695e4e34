"""Decides what each queue does next, and why not; never does it.  Pure; imports config and mail."""
