"""One measurement of `scaling.py`, in this process alone, so that memory is its own.

    python -m minicnn.experiments.bench.scaling_points KIND JSON

JSON holds the arguments of the function KIND; what it returns is printed as JSON. Times
are in seconds. Memory is what the process had at most, less what it had once all
libraries were loaded, in bytes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
Row = dict[str, Any]
CLASSES, HELD_OUT = 10, 10  # one image in ten is for validation
BATCH = 128  # rows that are read of a store
DRAWN, SIDE = 250, 256  # different JPEGs, the others are links to them; pixels
LOOK = 0.2  # seconds between looks at other processes
# Nets of a few steps each: what is left is what a net costs besides its training.
PLAN = """
name = "small"
data = ""
recipe = "demo"
[settings]
network.arch = "caffenet32"
solver.iterations = 4
solver.batch = 8
schedule.evaluate_every = 4
schedule.checkpoint_every = 4
[[nets]]
split = "random-0"
treatments = ["transfer"]
targets = {targets}
depths = {depths}
"""


def status(process: int | str = "self") -> dict[str, str]:
    """What the system says of a process; nothing where it does not, or has none."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return {}
    return dict(line.split(":", 1) for line in text.splitlines())


def memory_bytes(key: str, process: int | str = "self") -> int:
    """What a process has (VmRSS) or had at most (VmHWM); 0 where nothing says.

    Not `getrusage`: Linux counts in ru_maxrss what the parent had when it forked.
    """
    return 1024 * int(status(process).get(key, "0").split()[0])


@contextmanager
def memory(row: Row) -> Iterator[None]:
    """Sets row["memory"] to what the work inside takes at most."""
    with suppress(OSError):  # where VmHWM cannot be set back, it is an upper bound
        Path("/proc/self/clear_refs").write_text("5")
    before = memory_bytes("VmRSS")
    yield
    row["memory"] = memory_bytes("VmHWM") - before


@contextmanager
def timed(row: Row, key: str = "seconds") -> Iterator[None]:
    """Sets row[key] to what the work inside takes."""
    began = time.perf_counter()
    yield
    row[key] = time.perf_counter() - began


@contextmanager
def watched(row: Row) -> Iterator[None]:
    """Sets row["worker"] to the most that a process begun inside has of memory."""
    most, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(LOOK):
            numbers = [int(each.name) for each in Path("/proc").glob("[0-9]*")]
            parents = {each: int(status(each).get("PPid", 0)) for each in numbers}
            for number in numbers:
                above = parents[number]
                while above and above != os.getpid():
                    above = parents.get(above, 0)
                if above:
                    most.append(memory_bytes("VmHWM", number))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        row["worker"] = max(most)


def step(arch: str, batch: int, crop: int = 0) -> Row:
    """A training step on the CPU: its time, its memory, and what is planned for it.

    Args:
        crop: height and width of the input; 0 leaves the architecture's own.
    """
    from minicnn.devices import device
    from minicnn.experiments.bench.ops import OUTPUTS, Step
    from minicnn.experiments.study.cost import layer_flops, training_flops
    from minicnn.nn import architectures
    from minicnn.nn.network import Network

    spec = architectures.get(arch)
    if crop:
        name, size = f"{arch} of {crop}", spec.size * crop // spec.crop
        spec = replace(spec, name=name, crop=crop, size=size)
        architectures.ARCHITECTURES[name] = spec
    dev, row = device.get("cpu"), Row()
    network = Network(spec.name, OUTPUTS, dev, seed=None)
    # The images as the store has them and as the network does; weights and momentum.
    image = 3 * spec.size**2 + 3 * 4 * spec.crop**2
    row["planned"] = network.demand(batch) + batch * image + 2 * network.values.nbytes
    row["flops"] = training_flops(layer_flops(spec.name, OUTPUTS))  # of an image
    with memory(row):
        work = Step(dev, spec.name, batch)
        row["seconds"] = dev.meter().seconds(work.whole, cold=False)
    return row


def make_store(path: str, rows: int, size: int) -> Row:
    """A store of black images: a sparse file, whose pixels take no room on the disk."""
    import numpy as np

    from minicnn.data import store

    number = np.arange(rows)
    texts = [str(each) for each in range(CLASSES)]
    contents = store.Contents(
        (size, size),
        (number % CLASSES).astype(np.int32),
        (number // CLASSES % HELD_OUT == 0).astype(np.uint8),
        [str(row) for row in range(rows)],
        texts,
        texts,
        [""] * CLASSES,
        {"source": "nothing", "resize": "none", "orientation": "ignored"},
    )
    store.create(Path(path), contents)
    store.mark_complete(Path(path))
    return {}


def open_store(path: str) -> Row:
    """Opening a store; the rows of a task in their first random order; a batch."""
    import numpy as np

    from minicnn.data.loader import Loader, Reader
    from minicnn.data.store import Store

    row = Row()
    with memory(row):
        with timed(row):
            opened = Store(path)
        with timed(row, "order"):
            classes, crop = range(0, CLASSES, 2), opened.image_size[0]
            loader = Loader(opened, classes, crop, BATCH, seed=0)
            rows = loader._rows(0)
        # As for a store larger than memory: else the system reads far more than asked
        # around each image of a file that it does not hold yet.
        reader = Reader(opened)
        pixels = np.empty((BATCH, *opened.image_size, 3), np.uint8)
        with timed(row, "batch"):
            reader.read(rows, pixels)
    row["pixels"] = opened.images.nbytes
    return row


def draw_jpegs(folder: str, counts: list[int]) -> Row:
    """For each count a source of that many JPEGs in class folders, FOLDER/COUNT."""
    import numpy as np
    from PIL import Image

    draw, drawn = np.random.default_rng(0), Path(folder, "drawn")
    drawn.mkdir()
    for number in range(min(DRAWN, max(counts))):
        coarse = draw.integers(0, 256, (SIDE // 8, SIDE // 8, 3), np.uint8)
        image = Image.fromarray(coarse).resize((SIDE, SIDE))
        image.save(drawn / f"{number}.jpg")
    files = [drawn / f"{number}.jpg" for number in range(DRAWN)]
    for count in counts:
        for name in range(CLASSES):
            Path(folder, str(count), str(name)).mkdir(parents=True)
        for number in range(count):
            link = Path(folder, str(count), str(number % CLASSES), f"{number}.jpg")
            os.link(files[number % DRAWN], link)
    return {}


def prepare(source: str, target: str, jobs: int, size: int) -> Row:
    """`minicnn data prepare`, with memory of this process and of the largest worker."""
    from minicnn.data import resample
    from minicnn.data_prep.prepare import Options
    from minicnn.data_prep.prepare import prepare as convert

    resample.compiled()  # once a machine, whatever the number of images
    row, options = Row(), Options(size=size, jobs=jobs)
    with watched(row), memory(row), timed(row):
        outcome = convert(Path(source), Path(target), options)
    assert outcome.state == "done", outcome
    return row


def study(folder: str, store: str, nets: int, share: bool) -> Row:
    """`minicnn study run` of transfer nets and their bases, one at a time.

    Args:
        nets: bases counted, up to 16: 1 base and 7 depths, in both directions.
    """
    targets, bases = (["B"], 1) if nets <= 8 else (["B", "A"], 2)
    depths = list(range(1, (nets - bases) // bases + 1))
    place = Path(folder)
    place.mkdir()
    plan, row = place / "small.toml", Row()
    plan.write_text(PLAN.format(targets=json.dumps(targets), depths=depths))
    command = [sys.executable, "-m", "minicnn", "study", "run", str(plan)]
    options = ["-o", str(place / "study"), "--data", store, "--device", "cpu"]
    options += ["--jobs", "1", "--threads-per-job", "1", *["--share-trunk"] * share]
    with timed(row):
        done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    finished = len(list(place.glob("study/runs/*/*/result.json")))
    assert finished == nets, f"{finished} nets instead of {nets}"
    return row


KINDS: dict[str, Callable[..., Row]] = {
    each.__name__: each
    for each in (step, make_store, open_store, draw_jpegs, prepare, study)
}

if __name__ == "__main__":
    print(json.dumps(KINDS[sys.argv[1]](**json.loads(sys.argv[2]))))
