"""Faults, by whose they are: ours, the configuration's, a peer's.  What a peer *answers* is a value, never an exception."""

from __future__ import annotations


class EngineError(Exception):
    """Root of everything the engine raises on purpose; its text is written for an operator."""


class StartError(EngineError):
    """The engine cannot start: names what is missing (port, user, limit), why, and what to do."""


class LocalProtocolError(EngineError):
    """We drove a protocol core wrongly: a bug of ours."""


class RemoteProtocolError(EngineError):
    """The peer broke the protocol; the text quotes what it sent, escaped."""


class SpoolError(EngineError):
    """The spool cannot do what was asked; the text says what an operator must look at."""
