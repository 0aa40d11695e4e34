"""Reloads under load: alternating configurations, broken ones among them, while clients send and a sink counts.  `python -m tests.reload`."""
