"""Errors that are addressed to the user rather than to the programmer."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can put right: a misspelt name, a missing folder, a wrong value.

    The message says what was found, what was expected and how to fix it; the command line prints
    it without a traceback. Derive from this class (and from a built-in exception where callers may
    want to catch that) for errors of that kind.
    """
