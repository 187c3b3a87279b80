"""What the doctor's checks share: a finding, and how they look and mend."""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass

OK, OPTIONAL, MISSING = "ok", "optional", "missing"
GIGA = 1e9
# The name on PyPI. `minicnn` is another project's there; its folder is MiniCNN, that is
# this one's where file names ignore case, as on macOS.
DISTRIBUTION, STRANGER = "minicnn-transfer", "minicnn"
TIMEOUT = 5.0  # seconds for another program to say its version


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for.

    Attributes:
        what: its name.
        found: what was found, or what its lack means.
        state: "ok", "optional" (absent, and only some things need it) or "missing".
        mend: the one command that mends it, or "".
    """

    what: str
    found: str
    state: str = OK
    mend: str = ""


def installed(package: str) -> str | None:
    """An installed package's version."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def pip(extra: str, verb: str = "install", package: str = DISTRIBUTION) -> str:
    """The command that installs an extra into this very Python, or does `verb`."""
    python = sys.executable or "python3"
    here = os.getcwd() + os.sep
    python = python[len(here) :] if python.startswith(here) else python
    wanted = f"{package}[{extra}]" if extra else package
    return f"{shlex.quote(python)} -m pip {verb} {shlex.quote(wanted)}"


def output(*command: str) -> str:
    """What a program prints, or "" where it is absent, fails or hangs."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
