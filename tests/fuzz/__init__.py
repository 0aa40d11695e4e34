"""Fuzzing of every parser that a stranger's bytes reach: `python -m tests.fuzz TARGET --seconds N`, and the corpus that it keeps.

`targets` has one function per target: bytes to what can be seen of them, AssertionError where an invariant breaks.  `fuzz` (needs atheris: the
extra `fuzz`) looks for inputs with new coverage in the Python sources; `corpus` keeps them in `corpus/TARGET`, a file each; `test_corpus`
replays them within `make test`, on the sources and on what is compiled, and compares.
"""
