"""`engine hash-password`: the Argon2id string that an <smtp-user> may have instead of a password."""

from __future__ import annotations

import argparse
import getpass
import os
import sys

from engine.cli.grammar import Grammar
from engine.policy.credentials import hash_password
from engine.smtp.auth import MAX_PASSWORD_BYTES


def add(grammar: Grammar) -> None:
    """Add these commands to *grammar*."""
    command = grammar.commands.add_parser(
        "hash-password",
        help="make of a password what may stand in a configuration instead of it",
        description="Asks for a password on a terminal, or reads its first line of input, and prints its Argon2id string for `password` of "
        "an <smtp-user>.  Such a user authenticates by PLAIN and LOGIN only.",
    )
    command.set_defaults(run=run_hash_password)


def run_hash_password(arguments: argparse.Namespace) -> int:
    try:
        password = _asked() if sys.stdin.isatty() else sys.stdin.buffer.readline(MAX_PASSWORD_BYTES + 2).rstrip(b"\r\n")
    except EOFError:
        password = b""
    if not 0 < len(password) <= MAX_PASSWORD_BYTES:
        print(f"engine: a password of 1 to {MAX_PASSWORD_BYTES} bytes is wanted, entered twice alike", file=sys.stderr)
        return os.EX_DATAERR
    print(hash_password(password))
    return os.EX_OK


def _asked() -> bytes:
    """What was entered twice; b"" where the two differ."""
    password = getpass.getpass("Password: ")
    return password.encode() if password == getpass.getpass("Once more: ") else b""
