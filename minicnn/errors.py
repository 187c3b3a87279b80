"""The one exception for what a user can mend."""

from __future__ import annotations


class MinicnnError(Exception):
    """Bad input or a failed precondition: names the thing, its value and the mend.

    The command line prints its text as one line and exits with status 2.
    """
