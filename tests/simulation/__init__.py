"""Deterministic simulation: the real listener session, scheduler, delivery slot, resolver and protocol cores in one process.

What is simulated is what cannot be repeated: time (`loop`), the network (`network`), the spool process and its disk (`spool`), DNS (`dns`) and the
hosts at the other end (`peers`).  `plan` draws a world from a seed, `world` lives it, `ledger` knows the truth and checks every promise against it.
Same seed, same trace.  `python -m tests.simulation --help`.
"""
