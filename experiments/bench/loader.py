"""Reading batches: the loader against memcpy, h5py and PyTorch, in one run.

    python -m minicnn.experiments.bench.loader [--size 256] [--batch 64] [--images 4096]
        [--rounds 15] [--json FILE]

A store of noise is read in the loader's own order, so that all ways give the same
batches, which is checked. The ways take turns; medians of all rounds.

1. The store in memory. memcpy copies as many bytes, that lie side by side in the memory
   map, into one array. PyTorch's Dataset reads the same map, image by image
   (`__getitem__`) or batch by batch (`__getitems__`). Crops as floats with the mean
   subtracted, which the cpu device trains on, come from the map or from copied images.
2. A step in milliseconds, the host waiting as for a GPU or computing on one core:
   alone, reading ahead, and reading first.
3. The store not in memory, as one that is larger than it: the system forgets the file
   before each batch.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from itertools import count, product
from pathlib import Path
from typing import Any

import click
import h5py
import numpy as np
from numpy.typing import NDArray

from minicnn.data import store as stores
from minicnn.data.loader import Loader, Reader
from minicnn.data.store import Store
from minicnn.devices import device
from minicnn.experiments.bench.provenance import (
    columns,
    json_option,
    keep,
    provenance,
)
from minicnn.experiments.bench.timed_step import seconds
from minicnn.ops import augment

Pixels = NDArray[np.uint8]
Rows = NDArray[np.int64]
Way = Callable[[Rows], Any]  # a batch's pixels or crops, by the rows of its images
Table = list[dict[str, Any]]
CLASSES, HELD_OUT = 10, 10  # one image in ten is for validation
WORKERS = (0, 1, 2)
TURN = 12  # batches in a row that a way is timed over; workers have fewer ready
SETTLE = 0.2  # seconds in which workers fill their queues, to be quiet afterwards
COLD_BATCHES, COLD_IMAGES = 3, 64


def make_store(path: Path, images: int, size: int) -> Store:
    """A store of noise."""
    number, texts = np.arange(images), [str(each) for each in range(CLASSES)]
    labels = (number % CLASSES).astype(np.int32)
    split = (number // CLASSES % HELD_OUT == 0).astype(np.uint8)
    about: dict[str, Any] = {
        "source": "noise",
        "resize": "none",
        "orientation": "ignored",
    }
    names = texts, texts, [""] * CLASSES
    files = [str(row) for row in range(images)]
    contents = stores.Contents((size, size), labels, split, files, *names, about)
    stores.create(path, contents)
    noise = np.random.default_rng(0).integers(0, 256, (256, size, size, 3), np.uint8)
    with h5py.File(path, "r+") as file:
        for start in range(0, images, len(noise)):
            noise[:, 0, 0, 0] = np.arange(start, start + len(noise)) % 256
            file["images"][start : start + len(noise)] = noise[: images - start]
    stores.mark_complete(path)
    return Store(path)


def by_torch(loader: Loader, workers: int, whole: bool) -> Way:
    """PyTorch's DataLoader over the memory map, in the order of a loader's steps."""
    import torch
    from torch.utils.data import DataLoader, Dataset

    warnings.filterwarnings("ignore", "The given NumPy array is not writable")
    images = np.asarray(loader.store.images)
    labels = loader.label_of[loader.store.labels]

    class Images(Dataset):
        def __getitem__(self, row: int) -> tuple[Any, int]:
            return torch.from_numpy(images[row]), int(labels[row])

    class Batches(Images):
        def __getitems__(self, rows: list[int]) -> tuple[Any, Any]:
            return torch.from_numpy(images[rows]), torch.from_numpy(labels[rows])

    batches = iter(
        DataLoader(
            Batches() if whole else Images(),
            batch_sampler=(loader._rows(step).tolist() for step in count()),
            num_workers=workers,
            collate_fn=(lambda batch: batch) if whole else None,
        )
    )
    return lambda _: next(batches)[0].numpy()


def by_h5py(images: h5py.Dataset, rows: Rows) -> Pixels:
    """h5py's fancy indexing, which wants rows that ascend."""
    order = np.argsort(rows)
    pixels = np.empty((len(rows), *images.shape[1:]), np.uint8)
    pixels[order] = images[rows[order]]
    return pixels


def in_memory(source: Store, make: Callable[[], Loader], rounds: int) -> Table:
    """Gigabytes a second of all ways, the store in the page cache."""
    loader = make()
    rows = [loader._rows(step) for step in range(TURN)]
    made = loader.train_batch(0)
    assert made.images is not None
    right, places = made.images.copy(), (made.top, made.left, made.mirror)
    loader.close()
    batch, images = loader.batch, np.asarray(source.images)
    slot = np.zeros((batch, *images.shape[1:]), np.uint8)
    several, one, dev = Reader(source), Reader(source, 1), device.get("cpu")
    mean = np.zeros(images.shape[1:], np.float32)
    crops = dev.empty((batch, loader.crop, loader.crop, 3), np.float32)
    file, draw = h5py.File(source.path), np.random.default_rng(0)

    def memcpy(reader: Reader) -> Pixels:
        begin = int(draw.integers(0, len(images) - batch + 1))

        def copy(start: int, stop: int) -> None:
            np.copyto(slot[start:stop], images[begin + start : begin + stop])

        reader.threads.for_chunks(copy, batch, -(-batch // reader.threads.threads))
        return slot

    def cropped(images: Pixels, rows: Rows) -> NDArray[np.float32]:
        augment.crop_mirror(dev, images, mean, crops, rows, *places)
        return crops

    threads, every = several.threads.threads, np.arange(batch)
    ways: dict[str, Way] = {
        "memcpy, 1 thread": lambda rows: memcpy(one),
        f"memcpy, {threads} threads": lambda rows: memcpy(several),
        "minicnn, 1 thread": lambda rows: one.read(rows, slot),
        f"minicnn, {threads} threads": lambda rows: several.read(rows, slot),
        "NumPy, images[rows]": lambda rows: images[rows],
        "h5py, images[rows]": lambda rows: by_h5py(file["images"], rows),
        "crops from the memory map": lambda rows: cropped(images, rows),
        "crops from copied images": lambda rows: cropped(
            several.read(rows, slot), every
        ),
    }
    queued = dict.fromkeys(ways, 0)  # batches that workers have ready
    for workers, whole in product(WORKERS, (False, True)):
        name = f"DataLoader, by {'batch' if whole else 'image'}, {workers} workers"
        ways[name], queued[name] = by_torch(make(), workers, whole), 2 * workers
    images[::7].sum()  # brings the store into memory, and maps it
    found = {name: read(rows[0]).copy() for name, read in ways.items()}
    first, second = (found.pop(name) for name in list(found) if "crops" in name)
    assert np.array_equal(first, second)
    for name, pixels in found.items():
        assert "memcpy" in name or np.array_equal(pixels, right), name
    time.sleep(SETTLE)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _, (name, read) in product(range(rounds), ways.items()):
        for _ in range(queued[name]):
            read(rows[0])
        times[name].append(seconds(list, map(read, rows)) / TURN)
        time.sleep(SETTLE if queued[name] else 0)
    return [_rate(name, taken, batch, right[0].nbytes) for name, taken in times.items()]


def _rate(name: str, times: list[float], batch: int, size: int) -> dict[str, Any]:
    taken = statistics.median(times)
    return {
        "way": name,
        "gigabytes_a_second": batch * size / taken / 1e9,
        "images_a_second": batch / taken,
        "best": batch * size / min(times) / 1e9,
    }


def steps(make: Callable[[], Loader], rounds: int) -> Table:
    """Milliseconds of a step: the work alone, then with reading, ahead or first."""
    loader = make()
    for step in range(3):
        loader.train_batch(step)
    wanted = 2 * seconds(list, map(loader._make, range(5))) / 5
    side = np.ones((400, 400), np.float32)

    def compute(products: int) -> None:
        for _ in range(products):
            side @ side

    products = max(1, round(20 * wanted / seconds(compute, 20)))
    works: dict[str, Callable[[], None]] = {
        "waits, as for a GPU": lambda: time.sleep(wanted),
        "computes": lambda: compute(products),
    }
    ways: dict[str, Callable[[int], object]] = {
        "ahead": loader.train_batch,
        "alone": lambda _: None,
        "first": loader._make,
    }
    table = []
    for name, work in works.items():
        times: dict[str, list[float]] = {"alone": [], "ahead": [], "first": []}
        loader.train_batch(0)
        for step, (way, batch) in product(range(1, 4 * rounds + 1), ways.items()):
            times[way].append(seconds(batch, step) + seconds(work))
        row = {way: statistics.median(taken) * 1e3 for way, taken in times.items()}
        hidden = 1 - (row["ahead"] - row["alone"]) / (row["first"] - row["alone"])
        table.append({"the host": name, **row, "hidden": hidden})
    loader.close()
    return table


def read_bytes() -> int:
    """Bytes that this process has had read from the disk."""
    with open("/proc/self/io", encoding="ascii") as file:
        lines = dict(line.split(": ") for line in file)
    return int(lines["read_bytes"])


def not_in_memory(source: Store, rounds: int) -> Table:
    """Images a second, and bytes read for each that is used, of a forgotten file."""
    used = min(COLD_IMAGES, len(source) // 4)
    slot = np.zeros((used, *source.image_size, 3), np.uint8)
    draw = np.random.default_rng(0)
    file = os.open(source.path, os.O_RDONLY)
    os.fsync(file)

    def mapped(ahead: bool) -> Way:
        reader = Reader(Store(source.path), ahead=ahead)
        return lambda rows: reader.read(rows, slot)

    def h5() -> Way:
        dataset = h5py.File(source.path)["images"]
        return lambda rows: by_h5py(dataset, rows)

    ways: dict[str, Callable[[], Way]] = {
        "minicnn, announced": lambda: mapped(True),
        "the memory map alone": lambda: mapped(False),
        "h5py, images[rows]": h5,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    amounts: dict[str, list[float]] = {name: [] for name in ways}
    for _, (name, make) in product(range(min(rounds, COLD_BATCHES)), ways.items()):
        rows, read = draw.permutation(len(source))[:used], make()
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        before = read_bytes()
        times[name].append(seconds(read, rows))
        amounts[name].append((read_bytes() - before) / slot.nbytes)
        del read
    os.close(file)
    return [
        _rate(name, taken, used, slot[0].nbytes)
        | {"bytes_read_per_byte": statistics.median(amounts[name])}
        for name, taken in times.items()
    ]


@click.command()
@click.option("--size", default=256, show_default=True, help="Height and width.")
@click.option("--batch", default=64, show_default=True, help="Images a batch.")
@click.option("--images", default=4096, show_default=True, help="In the store.")
@click.option("--rounds", default=15, show_default=True, help="Times each is measured.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where the store goes.")
@json_option
def main(folder: Path | None, out: Path | None, **sizes: int) -> None:
    """The loader against memcpy, h5py and PyTorch's DataLoader."""
    import torch

    size, rounds = sizes["size"], sizes["rounds"]
    with tempfile.TemporaryDirectory(dir=folder) as name:
        source = make_store(Path(name, "noise.h5"), sizes["images"], size)

        def make() -> Loader:
            crop = size - size // 9
            return Loader(source, range(CLASSES), crop, sizes["batch"], seed=0)

        # First: the system keeps in memory what a process has mapped.
        cold = not_in_memory(source, rounds)
        tables = {
            "in_memory": in_memory(source, make, rounds),
            "steps": steps(make, rounds),
            "not_in_memory": cold,
        }
    about = {"provenance": provenance(), "torch": torch.__version__}
    keep(out, {**about, "h5py": h5py.__version__, **sizes, **tables})
    for title, rows in tables.items():
        click.echo(f"{title}\n{columns(rows)}\n")


if __name__ == "__main__":
    main()
