"""The demo set: pictures we draw ourselves, so that everything runs without data.

40 classes, half of them natural, half man-made (`demo_natural`, `demo_manmade`), each
picture a pure function of (seed, class, index); `demo_scene` says what varies. Several
processes write their rows straight into the store, at the same bytes however many.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from minicnn.data_prep.demo_scene import CLASSES, DRAWINGS, render

from minicnn.errors import MinicnnError
from minicnn.progress import Progress
from minicnn.store import TRAIN, VAL, Contents, create, mark_complete

VERSION = 1
TRAIN_IMAGES, VAL_IMAGES = 150, 50
SMALLEST, LARGEST = 16, 256
_ROWS = (TRAIN_IMAGES + VAL_IMAGES) * len(CLASSES)
_SHARE = 40  # rows a process writes at a time


def default_demo_path() -> Path:
    """Where the demo store is kept: in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "minicnn" / f"demo-v{VERSION}-32.h5"


def ensure_demo() -> Path:
    """The demo store, made on first use.

    Returns:
        Its path.

    Raises:
        MinicnnError: it cannot be written.
    """
    path = default_demo_path()
    if not path.is_file():
        print(
            f"no --data given: drawing the demo set ({len(CLASSES)} classes, "
            f"{_ROWS} images) once into {path}",
            file=sys.stderr,
        )
        prepare_demo(path)
    return path


def prepare_demo(
    path: Path, *, size: int = 32, seed: int = 0, jobs: int | None = None
) -> None:
    """Draws the demo set into a store, under a temporary name until it is complete.

    Args:
        path: the store; an older one there is replaced.
        size: height and width in pixels.
        seed: other seeds give other pictures of the same classes.
        jobs: processes; the machine's cores by default. The store is the same bytes.

    Raises:
        MinicnnError: a bad size, seed or jobs, or the store cannot be written.
    """
    if not SMALLEST <= size <= LARGEST:
        raise MinicnnError(f"demo size {size}: give one from {SMALLEST} to {LARGEST}")
    if not 0 <= seed < 2**64:
        raise MinicnnError(f"demo seed {seed}: give one from 0 to 2^64 - 1")
    if jobs is not None and jobs < 1:
        raise MinicnnError(f"jobs {jobs}: give at least 1")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own: two first uses at once do not disturb each other.
        handle, name = tempfile.mkstemp(".part", path.name + ".", path.parent)
        os.close(handle)
        try:
            _write(Path(name), size, seed, jobs or os.cpu_count() or 1)
            os.replace(name, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)
    except OSError as error:
        raise MinicnnError(
            f"demo store {path}: cannot be written ({error}); give another path"
        ) from None


def place(row: int) -> tuple[int, int, int]:
    """Class, part and picture number of a row; the training part comes first.

    Within a part the rows go by class; validation pictures continue the count.
    """
    if row < TRAIN_IMAGES * len(CLASSES):
        return row // TRAIN_IMAGES, TRAIN, row % TRAIN_IMAGES
    row -= TRAIN_IMAGES * len(CLASSES)
    return row // VAL_IMAGES, VAL, TRAIN_IMAGES + row % VAL_IMAGES


def contents(size: int, seed: int) -> Contents:
    """All of the demo store but its pixels."""
    places = [place(row) for row in range(_ROWS)]
    return Contents(
        size=(size, size),
        labels=np.array([kind for kind, _, _ in places], np.int32),
        split=np.array([part for _, part, _ in places], np.uint8),
        files=[f"{CLASSES[kind]}/{index:03d}" for kind, _, index in places],
        wnids=CLASSES,
        names=[kind.replace("-", " ") for kind in CLASSES],
        groups=[DRAWINGS[kind].group for kind in CLASSES],
        attributes={
            "source": f"demo set, version {VERSION}",
            "resize": "none",
            "orientation": "none",
            "seed": str(seed),
        },
    )


def _write(path: Path, size: int, seed: int, jobs: int) -> None:
    offsets = create(path, contents(size, seed))
    with Progress(_ROWS, "images", "drawing the demo set") as progress:

        def draw(part: int) -> None:
            settings = [size, seed, offsets["images"], offsets["crc32"], part, jobs]
            command = [sys.executable, "-m", __name__, str(path), *map(str, settings)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
                for line in child.stdout or ():
                    progress.update(int(line))
            if child.returncode:
                raise OSError(f"drawing process {part} ended with {child.returncode}")

        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(draw, range(jobs)))
    mark_complete(path)


def _draw_rows(
    path: str, size: int, seed: int, images: int, crc32: int, part: int, jobs: int
) -> None:
    """Writes every `jobs`-th share of rows into the store and prints their counts."""
    file = os.open(path, os.O_WRONLY)
    for first in range(part * _SHARE, _ROWS, jobs * _SHARE):
        rows = range(first, min(first + _SHARE, _ROWS))
        kinds = [place(row) for row in rows]
        pictures = [render(seed, kind, index, size) for kind, _, index in kinds]
        sums = np.array([zlib.crc32(picture) for picture in pictures], np.uint32)
        os.pwrite(file, np.stack(pictures), images + first * pictures[0].nbytes)
        os.pwrite(file, sums, crc32 + first * sums.itemsize)
        print(len(rows), flush=True)
    os.close(file)


if __name__ == "__main__":
    _draw_rows(sys.argv[1], *map(int, sys.argv[2:]))
