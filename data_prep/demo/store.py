"""The demo set: pictures we draw ourselves, so that everything runs without data.

40 classes, half of them natural, half man-made (`natural`, `manmade`), each picture a
pure function of (seed, class, number); `scene` says what varies. Several processes
write their rows straight into the store, the same bytes however many.
"""

from __future__ import annotations

import os
import sys
import zlib
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from minicnn.base.errors import MinicnnError, Stopped
from minicnn.base.files import cache_folder, check_target, make_folder, written_whole
from minicnn.base.interrupt import Interrupt
from minicnn.base.progress import Progress
from minicnn.data.store import TRAIN, VAL, Contents, create, mark_complete
from minicnn.data_prep.demo.scene import CLASSES, DRAWINGS, render
from minicnn.data_prep.layout import check_disk, is_there
from minicnn.data_prep.workers import Workers

VERSION = 1
"""Of the pictures: to be raised when they change, so that no older store is used."""
SIZE = 32
TRAIN_IMAGES, VAL_IMAGES = 150, 50
SMALLEST, LARGEST = 16, 256
_SHARE = 50  # rows drawn at a time


def default_demo_path() -> Path:
    """Where the demo store is kept: in the user's cache folder."""
    return cache_folder() / f"demo-v{VERSION}-{SIZE}.h5"


def ensure_demo() -> Path:
    """The path of the demo store, drawn on first use."""
    path = default_demo_path()
    if not path.is_file():
        print(
            f"No --data given: drawing the demo set once, {len(CLASSES)} classes, "
            f"{len(places())} images, into {path}",
            file=sys.stderr,
        )
        # In this process: others would run a script's main module again, and a script
        # that merely leaves out its data need not be written for that.
        prepare_demo(path, jobs=1)
    return path


def prepare_demo(
    path: Path,
    *,
    size: int = SIZE,
    seed: int = 0,
    jobs: int | None = None,
    fresh: bool = False,
) -> bool:
    """Draws the demo set into a store, under a temporary name until it is complete.

    Args:
        size: height and width in pixels.
        seed: other seeds give other pictures of the same classes.
        jobs: processes; all cores by default. The bytes do not depend on it.
        fresh: replace what is there.

    Returns:
        Whether it was drawn; False where this very store was there already.

    Raises:
        MinicnnError: a bad size or seed; something else is there; or the store
            cannot be written.
        Stopped: by Ctrl-C or SIGTERM; nothing is left behind.
    """
    if not SMALLEST <= size <= LARGEST:
        raise MinicnnError(f"demo size {size}: give one from {SMALLEST} to {LARGEST}")
    if not 0 <= seed < 2**63:
        raise MinicnnError(f"demo seed {seed}: give one from 0 to 2^63 - 1")
    make_folder(path.parent)
    check_target(path)
    wanted = {"source": "demo", "demo_version": VERSION, "seed": seed}
    wanted |= {"image_size": (size, size)}
    if is_there(path, wanted, "and is not this demo set", fresh):
        return False
    drawn = contents(size, seed)
    check_disk(drawn, path)
    # A name of its own: two first uses at once do not disturb each other.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    mend = "; free some space or give another path"
    with written_whole(path, mend, temporary):
        _draw_store(temporary, drawn, seed, jobs)
    return True


def places() -> list[tuple[int, int, int]]:
    """Part, class and picture number of every row, in their order.

    The numbers of validation pictures follow those of the training pictures.
    """
    train = range(TRAIN_IMAGES)
    val = range(TRAIN_IMAGES, TRAIN_IMAGES + VAL_IMAGES)
    return [
        (part, kind, number)
        for part, numbers in ((TRAIN, train), (VAL, val))
        for kind in range(len(CLASSES))
        for number in numbers
    ]


def contents(size: int, seed: int) -> Contents:
    """All of the demo store but its pixels."""
    rows = places()
    return Contents(
        size=(size, size),
        labels=np.array([kind for _, kind, _ in rows], np.int32),
        split=np.array([part for part, _, _ in rows], np.uint8),
        files=[f"{CLASSES[kind]}/{number:03d}" for _, kind, number in rows],
        wnids=CLASSES,
        names=[wnid.replace("-", " ") for wnid in CLASSES],
        groups=[DRAWINGS[wnid].group for wnid in CLASSES],
        attributes={
            "source": "demo",
            "demo_version": VERSION,
            "seed": seed,
            # For pictures that are later classified by a net trained on this store.
            "resize": "warp",
            "orientation": "applied",
        },
    )


def _draw_store(path: Path, drawn: Contents, seed: int, jobs: int | None) -> None:
    create(path, drawn)
    pictures = [(row, kind, number) for row, (_, kind, number) in enumerate(places())]
    shares = [
        pictures[first : first + _SHARE] for first in range(0, len(pictures), _SHARE)
    ]
    with (
        Interrupt() as interrupt,
        Workers(jobs) as workers,
        Progress(len(pictures), "images", "drawing the demo set") as progress,
        h5py.File(path, "r+") as file,
    ):
        work = partial(_draw_rows, seed, drawn.size[0])
        for share, pixels in workers.unordered(work, shares, interrupt):
            rows = slice(share[0][0], share[-1][0] + 1)
            file["images"][rows] = pixels
            file["crc32"][rows] = [zlib.crc32(picture.data) for picture in pixels]
            progress.update(len(pixels))
    if interrupt.requested:
        raise Stopped(interrupt.signal_name)
    mark_complete(path)


def _draw_rows(
    seed: int, size: int, share: list[tuple[int, int, int]]
) -> NDArray[np.uint8]:
    """The pixels of consecutive rows, given as row, class and number of the picture."""
    return np.stack([render(seed, kind, number, size) for _, kind, number in share])
