"""Preparing a store against the plain Pillow loop, on the same JPEGs, in one run.

    python -m minicnn.experiments.bench.prepare JPEGS [--images 2000] [--size 256]
        [--json FILE]

JPEGS is a folder of them; they are repeated as often as it takes. The plain loop is
what one writes first: Image.open(path).convert("RGB").resize(size, BILINEAR) into a
dataset of h5py; with two processes, multiprocessing.Pool.imap. Three measures, the ways
taking turns in each, medians of all rounds:

1. one file from bytes to pixels, CPU time, by file size: what a core does;
2. whole stores, images a second of wall time and CPU time, one process and two; every
   row of every store is then compared with the plain loop's;
3. how far JPEGs that are decoded at reduced size are from those decoded whole, for
   several limits on how much larger than wanted they must still be.
"""

from __future__ import annotations

import io
import math
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import click
import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from minicnn.data import images, resample
from minicnn.data.images import to_rgb
from minicnn.experiments.bench.provenance import (
    columns,
    json_option,
    keep,
    provenance,
)

PLAIN, DEFAULT, EXACT = "plain loop", "prepare", "prepare --exact"
LARGE = 1_000_000  # pixels: above, few files weigh as much as all others
LIMITS, SIZES = (1, 2, 3, 4, 6), (64, 128, 256)
Pixels = NDArray[np.uint8]
Table = list[dict[str, Any]]
# Of whole stores, by way and processes: wall and CPU seconds of each round.
Taken = dict[tuple[str, int], list[tuple[float, float]]]


def plain_pixels(source: Any, size: int) -> Pixels:
    """A file or path as the plain loop has it."""
    with Image.open(source) as image:
        resized = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
        return np.asarray(resized)


def plain_store(paths: list[str], size: int, target: Path, jobs: int) -> None:
    """The plain loop, whole."""

    def pixels() -> Iterator[Pixels]:
        if jobs == 1:
            yield from (plain_pixels(path, size) for path in paths)
            return
        with multiprocessing.Pool(jobs) as pool:
            yield from pool.imap(partial(plain_pixels, size=size), paths, 8)

    with h5py.File(target, "w") as file:
        shape = (len(paths), size, size, 3)
        dataset = file.create_dataset("images", shape, np.uint8)
        for row, each in enumerate(pixels()):
            dataset[row] = each


def by_file(files: list[bytes], size: int, rounds: int) -> Table:
    """CPU milliseconds from a file's bytes to its pixels, means of groups of files."""
    library = resample.compiled()
    rule = (size, "warp", "ignored")
    ways: dict[str, Callable[[bytes], object]] = {
        PLAIN: lambda data: plain_pixels(io.BytesIO(data), size),
        DEFAULT: lambda data: to_rgb(data, *rule, resampler=library),
        EXACT: lambda data: to_rgb(data, *rule, exact=True),
        "decoding alone": lambda data: Image.open(io.BytesIO(data)).load(),
    }
    large = [math.prod(Image.open(io.BytesIO(data)).size) > LARGE for data in files]
    times = np.zeros((len(ways), len(files), 3 * rounds))
    for turn in range(times.shape[2]):
        for number, data in enumerate(files):
            for way, work in enumerate(ways.values()):
                began = time.process_time_ns()
                work(data)
                times[way, number, turn] = (time.process_time_ns() - began) / 1e6
    medians = np.median(times, axis=2)
    groups = {
        "all": np.ones(len(files), bool),
        "up to 1 megapixel": ~np.array(large),
        "larger": np.array(large),
    }
    return [
        {"files": group, "count": int(chosen.sum())}
        | {way: float(medians[k, chosen].mean()) for k, way in enumerate(ways)}
        for group, chosen in groups.items()
        if chosen.any()
    ]


def lay_out(files: list[Path], source: Path, count: int) -> list[str]:
    """Links to the files as ImageNet's folders, in store order: train, then val.

    As ImageNet, so that EXIF orientation is ignored, as the plain loop does.
    """
    repeats = max(2, -(-count // len(files)))
    paths = []
    for part, copies in (("train", repeats - 1), ("val", 1)):
        for number, path in enumerate(files):
            folder = source / part / f"n{number:08}"
            folder.mkdir(parents=True)
            for copy in range(copies):
                link = folder / f"{number:05}_{copy:05}.JPEG"
                link.symlink_to(path.resolve())
                paths.append(str(link))
    return paths


def whole_stores(files: list[Path], size: int, count: int, rounds: int) -> Table:
    """Images a second, CPU milliseconds an image, and how the pixels compare."""
    from minicnn.data.store import Store
    from minicnn.data_prep.prepare import Options, prepare

    with tempfile.TemporaryDirectory() as name:
        folder, source = Path(name), Path(name, "source")
        paths = lay_out(files, source, count)

        def ours(exact: bool, target: Path, jobs: int) -> None:
            options = Options(size=size, jobs=jobs, exact=exact, fresh=True)
            prepare(source, target, options)

        ways = {
            PLAIN: partial(plain_store, paths, size),
            DEFAULT: partial(ours, False),
            EXACT: partial(ours, True),
        }
        seconds: Taken = {}
        for _ in range(rounds):
            for jobs, (way, work) in product((1, 2), ways.items()):
                began, cpu = time.perf_counter(), time.process_time()
                work(folder / f"{way}.h5", jobs)
                taken = time.perf_counter() - began, time.process_time() - cpu
                seconds.setdefault((way, jobs), []).append(taken)
        with h5py.File(folder / f"{PLAIN}.h5") as file:
            plain = file["images"][...]
        table = [_store_row(PLAIN, len(paths), seconds)]
        for way in (DEFAULT, EXACT):
            made = Store(folder / f"{way}.h5").images
            # The last rows are one copy of each file; equal files have equal rows.
            rows = slice(len(paths) - len(files), None)
            row = _store_row(way, len(paths), seconds)
            table.append(row | _compared(made[rows], plain[rows]))
        return table


def _store_row(way: str, images: int, seconds: Taken) -> dict[str, Any]:
    one, two = ([wall for wall, _ in seconds[way, jobs]] for jobs in (1, 2))
    cpu = statistics.median(cpu for _, cpu in seconds[way, 1])
    return {
        "way": way,
        "cpu_ms_an_image": cpu / images * 1e3,
        "images_a_second_1": images / statistics.median(one),
        "images_a_second_2": images / statistics.median(two),
    }


def _compared(made: Pixels, plain: Pixels) -> dict[str, Any]:
    """How far images are from others, in grey levels; "mean"s are of an image."""
    gaps = [np.abs(a.astype(np.int16) - b) for a, b in zip(made, plain, strict=True)]
    most, mean = [int(gap.max()) for gap in gaps], [float(gap.mean()) for gap in gaps]
    worst = max(float(np.square(gap, dtype=np.float64).mean()) for gap in gaps)
    return {
        "equal": sum(each == 0 for each in most),
        "files": len(most),
        "largest": max(most),
        "mean": statistics.fmean(mean),
        "worst_mean": max(mean),
        "worst_psnr": 10 * math.log10(255**2 / worst) if worst else None,
    }


def reduced(files: list[bytes]) -> Table:
    """Reduced decoding against whole decoding, by size and limit."""
    table = []
    for size, limit in product(SIZES, LIMITS):
        drafted = []
        for data in files:
            image = Image.open(io.BytesIO(data))
            whole = image.size
            image.draft(None, (limit * size, limit * size))
            if image.size != whole:
                drafted.append(data)
        if not drafted:
            continue
        rule = (size, "warp", "ignored")
        with mock.patch.object(images, "_DRAFT", limit):
            ours = [to_rgb(data, *rule) for data in drafted]
        exact = [to_rgb(data, *rule, exact=True) for data in drafted]
        row = {"size": size, "limit": limit, "used": limit == images._DRAFT}
        table.append(row | _compared(np.stack(ours), np.stack(exact)))
    return table


@click.command()
@click.argument("jpegs", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--images", "count", default=2000, show_default=True, help="In a store.")
@click.option("--size", default=256, show_default=True, help="Height and width.")
@click.option("--rounds", default=3, show_default=True, help="Times each is measured.")
@json_option
def main(jpegs: Path, count: int, size: int, rounds: int, out: Path | None) -> None:
    """Preparing a store against the plain Pillow loop."""
    ending = (".jpg", ".jpeg")
    paths = sorted(each for each in jpegs.iterdir() if each.suffix.lower() in ending)
    files = [path.read_bytes() for path in paths]
    result: dict[str, Any] = {
        "provenance": provenance(),
        "decoder": images.decoder(),
        "compiled": bool(resample.compiled()),
        "size": size,
        "rounds": rounds,
        "images": max(2, -(-count // len(paths))) * len(paths),
        "by_file": by_file(files, size, rounds),
        "stores": whole_stores(paths, size, count, rounds),
        "reduced": reduced(files),
    }
    click.echo(f"{result['provenance']['machine']}, {result['decoder']}")
    for title in ("by_file", "stores", "reduced"):
        click.echo(f"\n{title}\n{columns(result[title])}")
    keep(out, result)


if __name__ == "__main__":
    main()
