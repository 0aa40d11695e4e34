"""Chaos: load runs through a real engine while its processes are killed and its peers lie; then every recipient is accounted for.

`python -m tests.chaos` (`make chaos`) is the long run, `test_chaos.py` the short pass.  `account` is the pure core: evidence in, verdict out.
`client` and `sink` are processes of their own that nobody kills: what was acknowledged, and what was taken, they alone know.
"""
