"""A real engine among hostile clients and hosts: `python -m tests.hostile`, or the short pass in `test_hostile`.

While each attack stands, bench/source.c sends at a steady rate as another client: how long its 250 takes from the final dot (p99), whether it was
ever refused, and how much anonymous memory all of the engine's processes have beyond what they had before.  `clients` and `hosts` are the
attacks on either side, `field` is what they attack, `measuring` makes a row of the table.

What is correct to answer to each misbehaviour is tested elsewhere, one by one: tests/listener (deadlines, drips, clients that read nothing),
tests/sinks with tests/system/test_outcomes (hosts that lie, stall and drop), tests/smtp (limits of the cores).  Here they come in numbers.
"""
