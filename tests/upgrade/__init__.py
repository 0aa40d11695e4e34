"""Upgrades of a running engine: releases that differ in little, clients that never stop, kills in between.  `python -m tests.upgrade`."""
