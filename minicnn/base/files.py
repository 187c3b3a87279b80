"""Files that are either whole or absent, locks, and the cache folder."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from minicnn.base.errors import MinicnnError

# Seconds that a lock is waited for: whoever only looks at one holds it for an instant.
PATIENCE = 0.5


def partial(path: Path) -> Path:
    """Where a file is written before it is whole; a kill may leave it there."""
    return path.with_name(f".{path.name}.partial")


def holds_only(folder: Path, names: set[str]) -> bool:
    """Whether a folder is absent, or has nothing in it but what is named."""
    return not folder.exists() or {each.name for each in folder.iterdir()} <= names


@contextmanager
def written_whole(
    path: Path, mend: str = "", temporary: Path | None = None
) -> Iterator[Path]:
    """A temporary name, `partial`'s or another, to write a file under.

    The block's end gives the file its own name. Where the block raises, nothing is left
    behind, and what was there before is unharmed.

    Args:
        mend: what the error says after its reason.

    Raises:
        MinicnnError: the disk is full or the folder not writable, or there is no place
            for a file.
    """
    check_target(path)
    temporary = temporary or partial(path)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else error
        raise MinicnnError(f"{path}: cannot be written ({why}){mend}") from None
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all; raises as `written_whole` does."""
    mend = f"; {len(content):,} bytes are needed there"
    with written_whole(path, mend) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON, atomically."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """A JSON file's value; raises MinicnnError if it cannot be read or is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MinicnnError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise MinicnnError(f"{path}: not valid JSON: {error}") from None


def check_target(path: Path) -> None:
    """Raises MinicnnError if no file can be made there: over a folder, or in none."""
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "no regular file"
        raise MinicnnError(f"{path}: is {kind}; give the path of a file to make")
    if not path.parent.is_dir():
        raise MinicnnError(
            f"{path}: folder {path.parent} does not exist; make it by "
            f"{shlex.join(['mkdir', '-p', str(path.parent)])}"
        )


def make_folder(path: Path) -> None:
    """Makes a folder and its parents; MinicnnError if it cannot be written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MinicnnError(f"{path}: cannot be made ({error.strerror})") from None
    if not os.access(path, os.W_OK):
        raise MinicnnError(f"{path}: no permission to write there")


def cache_folder() -> Path:
    """Where compiled kernels and the demo set are kept: the user's cache folder."""
    return user_cache_path("minicnn", appauthor=False)


@contextmanager
def held_alone(path: Path, refusal: str) -> Iterator[None]:
    """Holds a lock file, made if missing; MinicnnError(refusal) if another does."""
    try:
        held = FileLock(path).acquire(timeout=PATIENCE, poll_interval=0.02)
    except Timeout:
        raise MinicnnError(refusal) from None
    with held:
        yield
