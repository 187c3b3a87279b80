"""Reading batches: the loader against memcpy, h5py and PyTorch, in one run.

    python -m minicnn.experiments.bench.loader [--size 256] [--batch 64] [--images 4096]
        [--rounds 15] [--json FILE]

A store of noise is made and read in the loader's own order, so that all ways give the
same batches, which is checked. Three measures, the ways taking turns, medians of all
rounds:

1. the store in memory: gigabytes of pixels a second. memcpy copies as many bytes, that
   lie side by side in the same memory map, into one array.
   PyTorch's Dataset reads the same memory map, image by image (`__getitem__`) or batch
   by batch (`__getitems__`), with 0, 1 and 2 workers. Crops as floats with the mean
   subtracted, which is what the cpu device trains on, are made from the map or from
   copied images;
2. a step with and without reading ahead: the host waits as for a GPU, or computes on
   one core;
3. the store not in memory, as one that is larger than it: the system forgets the file
   before each batch.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import h5py
import numpy as np
from numpy.typing import NDArray

from minicnn.data.loader import Loader, Reader
from minicnn.data.store import Store
from minicnn.devices import device
from minicnn.experiments.bench import scaling_points
from minicnn.ops import augment

Pixels = NDArray[np.uint8]
Table = list[dict[str, Any]]
WORKERS = (0, 1, 2)
TURN = 12  # batches in a row that a way is timed over; workers have fewer ready
SETTLE = 0.2  # seconds in which workers fill their queues, to be quiet afterwards
COLD_BATCHES, COLD_IMAGES = 3, 64


def make_store(path: Path, count: int, size: int) -> Store:
    """A store of noise."""
    scaling_points.make_store(str(path), count, size)
    noise = np.random.default_rng(0).integers(0, 256, (256, size, size, 3), np.uint8)
    with h5py.File(path, "r+") as file:
        for start in range(0, count, len(noise)):
            noise[:, 0, 0, 0] = np.arange(start, start + len(noise)) % 256
            file["images"][start : start + len(noise)] = noise[: count - start]
    return Store(path)


class Torch:
    """PyTorch's DataLoader over the memory map, in the order of a loader's steps."""

    def __init__(self, loader: Loader, workers: int, whole: bool) -> None:
        import torch
        from torch.utils.data import DataLoader, Dataset

        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        images = np.asarray(loader.store.images)
        labels = loader.label_of[loader.store.labels]

        class Images(Dataset):
            def __len__(self) -> int:
                return len(images)

            def __getitem__(self, row: int) -> tuple[Any, int]:
                return torch.from_numpy(images[row]), int(labels[row])

        class Batches(Images):
            def __getitems__(self, rows: list[int]) -> tuple[Any, Any]:
                return torch.from_numpy(images[rows]), torch.from_numpy(labels[rows])

        def endless() -> Iterator[list[int]]:
            step = 0
            while True:
                yield loader._rows(step).tolist()
                step += 1

        self.loader = DataLoader(
            Batches() if whole else Images(),
            batch_sampler=endless(),
            num_workers=workers,
            collate_fn=(lambda batch: batch) if whole else None,
        )
        self.batches: Iterator[Any] = iter(self.loader)
        self.queued = workers * 2  # batches that workers have ready

    def next(self) -> Pixels:
        """The pixels of the next batch."""
        return next(self.batches)[0].numpy()

    def seconds(self) -> float:
        """Of a batch, once the queue is used up."""
        for _ in range(self.queued):
            self.next()
        taken = timed(self.next)
        time.sleep(SETTLE if self.queued else 0)
        return taken


def timed(read: Callable[[], object]) -> float:
    """Seconds of a call, of several in a row."""
    began = time.perf_counter()
    for _ in range(TURN):
        read()
    return (time.perf_counter() - began) / TURN


def by_h5py(images: h5py.Dataset, rows: NDArray[np.int64]) -> Pixels:
    """h5py's fancy indexing, which wants rows that ascend."""
    order = np.argsort(rows)
    pixels = np.empty((len(rows), *images.shape[1:]), np.uint8)
    pixels[order] = images[rows[order]]
    return pixels


def in_memory(source: Store, make: Callable[[], Loader], rounds: int) -> Table:
    """Gigabytes a second of all ways, the store in the page cache."""
    loader = make()
    batch, images = loader.batch, np.asarray(source.images)
    slot = np.zeros((batch, *images.shape[1:]), np.uint8)
    several = Reader(source)
    threads = several.threads.threads
    one, dev = Reader(source, 1), device.get("cpu")
    draw = np.random.default_rng(0)
    made = loader.train_batch(0)
    places = made.top, made.left, made.mirror
    loader.close()
    mean = np.zeros(images.shape[1:], np.float32)
    crops = dev.empty((batch, loader.crop, loader.crop, 3), np.float32)

    def memcpy(reader: Reader, _: NDArray[np.int64]) -> Pixels:
        begin = int(draw.integers(0, len(images) - batch + 1))
        share = -(-batch // reader.threads.threads)

        def copy(start: int, stop: int) -> None:
            np.copyto(slot[start:stop], images[begin + start : begin + stop])

        reader.threads.for_chunks(copy, batch, share)
        return slot

    def cropped(images: Pixels, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        augment.crop_mirror(dev, images, mean, crops, rows, *places)
        return crops

    file = h5py.File(source.path)
    ways: dict[str, Callable[[NDArray[np.int64]], NDArray[Any]]] = {
        "memcpy, 1 thread": lambda rows: memcpy(one, rows),
        f"memcpy, {threads} threads": lambda rows: memcpy(several, rows),
        "minicnn, 1 thread": lambda rows: one.read(rows, slot),
        f"minicnn, {threads} threads": lambda rows: several.read(rows, slot),
        "NumPy, images[rows]": lambda rows: images[rows],
        "h5py, images[rows]": lambda rows: by_h5py(file["images"], rows),
        "crops from the memory map": lambda rows: cropped(images, rows),
        "crops from copied images": lambda rows: cropped(
            several.read(rows, slot), np.arange(batch)
        ),
    }
    torches = {
        f"DataLoader, by {'batch' if whole else 'image'}, {workers} workers": Torch(
            make(), workers, whole
        )
        for workers in WORKERS
        for whole in (False, True)
    }
    images[::7].sum()  # brings the store into memory, and maps it
    _check(make(), ways, torches)
    time.sleep(SETTLE)
    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, read in ways.items():
            steps = [loader._rows(step) for step in range(TURN)]
            taken = timed(map(read, steps).__next__)
            times.setdefault(name, []).append(taken)
        for name, each in torches.items():
            times.setdefault(name, []).append(each.seconds())
    return [
        _rate(name, taken, batch, images[0].nbytes) for name, taken in times.items()
    ]


def _check(loader: Loader, ways: dict[str, Any], torches: dict[str, Torch]) -> None:
    """All ways give the pixels of the loader's first batch."""
    rows = loader._rows(0)
    right = np.array(loader.train_batch(0).images)
    loader.close()
    for name, read in ways.items():
        if "memcpy" not in name and "crops" not in name:
            assert np.array_equal(read(rows), right), name
    one, other = (read(rows).copy() for name, read in ways.items() if "crops" in name)
    assert np.array_equal(one, other)
    for name, each in torches.items():
        assert np.array_equal(each.next(), right), name


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
    began = time.perf_counter()
    for step in range(5):
        loader._make(step)
    reading = (time.perf_counter() - began) / 5
    side = np.ones((400, 400), np.float32)

    def wait() -> None:
        time.sleep(2 * reading)

    def compute() -> None:
        for _ in range(products):
            side @ side

    products, began = 20, time.perf_counter()
    compute()
    products = max(1, round(products * 2 * reading / (time.perf_counter() - began)))
    table = []
    for name, work in (("waits, as for a GPU", wait), ("computes", compute)):
        times: dict[str, list[float]] = {"alone": [], "ahead": [], "first": []}
        loader.train_batch(0)
        for step in range(1, 4 * rounds + 1):
            for way, batch in (
                ("ahead", loader.train_batch),
                ("alone", lambda _: None),
                ("first", loader._make),
            ):
                began = time.perf_counter()
                batch(step)
                work()
                times[way].append(time.perf_counter() - began)
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
    count = min(COLD_IMAGES, len(source) // 4)
    shape = (count, *source.image_size, 3)
    slot, size = np.zeros(shape, np.uint8), int(np.prod(shape))
    draw = np.random.default_rng(0)
    file = os.open(source.path, os.O_RDONLY)
    os.fsync(file)

    def mapped(ahead: bool) -> Callable[[NDArray[np.int64]], object]:
        reader = Reader(Store(source.path), ahead=ahead)
        return lambda rows: reader.read(rows, slot)

    def h5() -> Callable[[NDArray[np.int64]], object]:
        dataset = h5py.File(source.path)["images"]
        return lambda rows: by_h5py(dataset, rows)

    ways = {
        "minicnn, announced": lambda: mapped(True),
        "the memory map alone": lambda: mapped(False),
        "h5py, images[rows]": h5,
    }
    times: dict[str, list[float]] = {}
    amounts: dict[str, list[float]] = {}
    for _ in range(min(rounds, COLD_BATCHES)):
        for name, make in ways.items():
            rows, read = draw.permutation(len(source))[:count], make()
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            before, began = read_bytes(), time.perf_counter()
            read(rows)
            times.setdefault(name, []).append(time.perf_counter() - began)
            amounts.setdefault(name, []).append((read_bytes() - before) / size)
            del read
    os.close(file)
    return [
        _rate(name, taken, count, size // count)
        | {"bytes_read_per_byte": statistics.median(amounts[name])}
        for name, taken in times.items()
    ]


def show(result: dict[str, Any]) -> None:
    """The result for people."""
    about = result["provenance"]
    what = f"{result['images']} images of {result['size']} pixels"
    click.echo(
        f"{about['machine']}, {about['date']}; {what}, batch {result['batch']}\n"
    )
    click.echo("1. the store in memory        GB/s   images/s   best GB/s  of memcpy")
    rows = result["in_memory"]
    copied = max(row["gigabytes_a_second"] for row in rows if "memcpy" in row["way"])
    for row in rows:
        share = row["gigabytes_a_second"] / copied
        click.echo(
            f"   {row['way']:34}{row['gigabytes_a_second']:6.2f}"
            f"{row['images_a_second']:11,.0f}{row['best']:9.2f}{share:10.0%}"
        )
    click.echo("\n2. a step, ms: the host    alone   reading ahead   reading first")
    for row in result["steps"]:
        click.echo(
            f"   {row['the host']:22}{row['alone']:8.2f}{row['ahead']:14.2f}"
            f"{row['first']:16.2f}; {row['hidden']:.0%} of the reading is hidden"
        )
    click.echo(
        "\n3. the store not in memory    images/s   MB/s   read for each byte used"
    )
    for row in result["not_in_memory"]:
        click.echo(
            f"   {row['way']:26}{row['images_a_second']:9,.0f}"
            f"{row['gigabytes_a_second'] * 1e3:7,.0f}{row['bytes_read_per_byte']:10.1f}"
        )


@click.command()
@click.option("--size", default=256, show_default=True, help="Height and width.")
@click.option("--batch", default=64, show_default=True, help="Images a batch.")
@click.option(
    "--images", "count", default=4096, show_default=True, help="In the store."
)
@click.option("--rounds", default=15, show_default=True, help="Times each is measured.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where the store goes.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Result file.")
def main(
    size: int,
    batch: int,
    count: int,
    rounds: int,
    folder: Path | None,
    out: Path | None,
) -> None:
    """The loader against memcpy, h5py and PyTorch's DataLoader."""
    import torch

    from minicnn.experiments.bench.provenance import provenance

    with tempfile.TemporaryDirectory(dir=folder) as name:
        source = make_store(Path(name, "noise.h5"), count, size)

        def make() -> Loader:
            classes = range(scaling_points.CLASSES)
            return Loader(source, classes, size - size // 9, batch, seed=0)

        # First: the system keeps in memory what a process has mapped.
        cold = not_in_memory(source, rounds)
        result = {
            "provenance": provenance(),
            "torch": torch.__version__,
            "h5py": h5py.__version__,
            "size": size,
            "batch": batch,
            "images": count,
            "rounds": rounds,
            "in_memory": in_memory(source, make, rounds),
            "steps": steps(make, rounds),
            "not_in_memory": cold,
        }
    show(result)
    if out:
        out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
