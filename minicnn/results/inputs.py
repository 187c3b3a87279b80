"""Images that a run's network is shown: of a store, or in files of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from minicnn.base.errors import MinicnnError
from minicnn.data.images import ORIENTATIONS, RESIZES, BadImageError, to_rgb
from minicnn.data.store import EXCLUDED, PARTS, Store
from minicnn.training.run import Run


@dataclass(frozen=True)
class Images:
    """Images to take features of.

    Attributes:
        read: the pixels (N,H,W,3) uint8 of a slice of them.
        arrays: `rows` (N,); of a store also `labels` and `split`.
        texts: `files` (N); of a store `wnids` and `names` (K).
    """

    read: Callable[[slice], NDArray[np.uint8]]
    arrays: dict[str, NDArray[Any]]
    texts: dict[str, list[str]]

    def __len__(self) -> int:
        return len(self.arrays["rows"])


def image_files(run: Run, paths: Sequence[Path]) -> Images:
    """Image files, each read by `read_image`."""

    def read(which: slice) -> NDArray[np.uint8]:
        return np.stack([read_image(run, path) for path in paths[which]])

    rows = np.arange(len(paths), dtype=np.int64)
    return Images(read, {"rows": rows}, {"files": [str(path) for path in paths]})


def images_of(run: Run, sources: Sequence[Path] = (), part: str = "all") -> Images:
    """The images of a store, or image files; of the run's own store if none is named.

    Args:
        sources: one store, of any classes, or image files.
        part: of a store: "train", "val" or "all".

    Raises:
        MinicnnError: a store that is missing, has images of another size or none in
            that part.
    """
    if sources and not (len(sources) == 1 and h5py.is_hdf5(sources[0])):
        return image_files(run, sources)
    store = open_store(run, sources[0] if sources else None)
    store.check_labels()
    wanted = store.split != EXCLUDED if part == "all" else store.split == PARTS[part]
    rows: NDArray[Any] = np.flatnonzero(wanted)
    if not len(rows):
        raise MinicnnError(f"store {store.path}: no image in its part {part}")
    arrays = {"rows": rows, "labels": store.labels[rows], "split": store.split[rows]}
    texts = {"wnids": store.wnids, "names": store.names}
    return Images(lambda which: store.images[rows[which]], arrays, texts)


def open_store(run: Run, path: Path | None) -> Store:
    """The run's own store, or another of images of the same size.

    Raises:
        MinicnnError: it is missing, or its images are of another size.
    """
    recorded = Path(run.about["store"])
    if path is None and not recorded.is_file():
        raise MinicnnError(
            f"{run.folder}: its store {recorded} is gone; say where it is by --data"
        )
    store = Store(path or recorded)
    size = run.mean.shape[:2]
    if store.image_size != size:
        raise MinicnnError(
            f"store {store.path}: its images are {_times(store.image_size)}, but "
            f"{run.folder} was trained on {_times(size)}; prepare it with that --size"
        )
    return store


def _times(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))


def read_image(run: Run, path: Path) -> NDArray[np.uint8]:
    """An image file by the rules of the run's store, (H,W,3) uint8.

    A large JPEG is decoded reduced, as `to_rgb` says, even for a store that was made
    with --exact.

    Raises:
        MinicnnError: it cannot be read, or is not an image.
    """
    resize, orientation = run.about["resize"], run.about["orientation"]
    # "none" in a store of arrays, see `store.write`: then keep a photo's shape, and
    # turn it upright.
    resize = resize if resize in RESIZES else "short-center"
    orientation = orientation if orientation in ORIENTATIONS else "applied"
    try:
        return to_rgb(path.read_bytes(), run.mean.shape[0], resize, orientation)
    except OSError as error:
        raise MinicnnError(f"image {path}: cannot be read ({error.strerror})") from None
    except BadImageError as error:
        raise MinicnnError(f"image {path}: {error}; give a JPEG or PNG file") from None
