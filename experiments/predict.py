"""What every kernel of a training step should take on an H200: no measurement.

    python experiments/predict.py [--precision bf16] [--arch caffenet] [--batch 256]

The step is recorded without running anything: which kernels, with what grids, blocks
and arguments. Each kernel is compiled for sm_90. Then a launch takes the longest of

- memory: the bytes of its op (`minicnn.experiments.bench.roofline`) at the bandwidth of
  a copy;
- products: its multiply-adds at the rate that their kind reaches;
- issue: its instructions, four a clock on each multiprocessor. Which a thread runs, and
  how often, is found by walking through the PTX (`ptx_walk`), with the launch's own
  arguments, in three places of the grid;
- cache: what cp.async brings through the level-2 cache;

and LAUNCH. All but memory are of the busiest multiprocessor, where blocks do not come
out even. It is a lower bound by this model: no latency, no barrier, no bank conflict
and no clock that drops under load is in it. To be held against measurements.
"""

from __future__ import annotations

import ctypes
import functools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
import numpy as np

from minicnn.devices import nvrtc
from minicnn.devices.device import Device, EmulatedDevice
from minicnn.devices.nvrtc import KernelReport
from minicnn.devices.recording import Launch, noting
from minicnn.experiments.bench.ops import Call, Step
from minicnn.experiments.bench.roofline import cost
from minicnn.experiments.ptx_walk import Walk, packed, special

# --- An H200 ----------------------------------------------------------------------
ARCH = "sm_90"
# Bytes a second of a copy, and bfloat16 operations a second of large products by wgmma:
# measured on an H200.
MEMORY, PEAK = 4.3e12, 790e12
# Of that peak, what mma.sync reaches on Hopper: published measurements.
MMA_SHARE = 0.63
# Multiprocessors, their clock (NVIDIA's data sheet), and warps' instructions a clock of
# each (its four schedulers issue one).
PROCESSORS, CLOCK, ISSUED = 132, 1.755e9, 4
# Bytes a second from the level-2 cache to all of them: published measurements of an
# H100, the lower.
CACHE = 5.5e12
# Operations a second by a kernel's type: tf32 has half the rate of bf16, tf32x3 makes
# three products of one; a multiprocessor adds 128 float products a clock, and half as
# many of double.
RATES = {
    "bf16": PEAK * MMA_SHARE,
    "tf32": PEAK * MMA_SHARE / 2,
    "tf32x3": PEAK * MMA_SHARE / 6,
    "float": PROCESSORS * CLOCK * 128 * 2,
    "double": PROCESSORS * CLOCK * 64 * 2,
}
# Seconds from the end of a kernel to the start of the next in a CUDA graph: an
# assumption.
LAUNCH = 1.5e-6

PRECISIONS = ("bf16", "tf32", "tf32x3", "fp32")
NET, BATCH = "caffenet", 256
GOAL = 4.2e-3  # seconds that a step of NET at BATCH is to take in bf16
PLACES = (1 / 6, 1 / 2, 5 / 6)  # of the grid and of a block, where a thread is followed
LANE = 7  # of its warp: one that does nothing special
TABLE = 1 << 16  # bytes: larger arrays hold nothing that decides the way


@dataclass(frozen=True)
class Prediction:
    """Of one launch.

    Attributes:
        place, op: the layer and the op that launch it.
        kernel: its C++ expression.
        blocks, warps: of the launch; of a block.
        parts: seconds by what bounds them: memory, products, issue, cache.
    """

    place: str
    op: str
    kernel: str
    blocks: int
    warps: int
    parts: dict[str, float]

    @property
    def bound(self) -> str:
        """What takes longest."""
        return max(self.parts, key=self.parts.__getitem__)

    @property
    def seconds(self) -> float:
        """What the launch should take."""
        return self.parts[self.bound] + LAUNCH


class _NoLauncher:
    """Launches nothing."""

    array = np.ndarray

    def address(self, array: Any) -> int:
        """See `launch.Launcher`."""
        return array.ctypes.data

    def build(self, *_: Any) -> None:
        """See `launch.Launcher`."""

    def launch(self, *_: Any) -> None:
        """See `launch.Launcher`."""


class DryDevice(EmulatedDevice):
    """A device whose kernels do nothing, for the sake of their launches.

    Its buffers are never written, so that they take no memory.
    """

    def __init__(self) -> None:
        super().__init__(1)
        self.launcher = _NoLauncher()

    def free_bytes(self) -> None:
        """Enough."""

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """An array of unspecified content, also when debugging."""
        return np.empty(shape, dtype)


def launches(arch: str, batch: int, precision: str) -> list[tuple[Call, list[Launch]]]:
    """A training step's calls of ops, and what each launches."""
    step = Step(DryDevice(), arch, batch, precision, seed=None)
    return [(call, launched(step.dev, call)) for call in step.recorded()]


def launched(dev: Device, call: Call) -> list[Launch]:
    """What a call launches."""
    with noting(dev) as noted:
        call.op(dev, **call.arguments)
    return list(noted)


def count_blocks(dims: Sequence[int]) -> int:
    """Of a grid; or threads of a block."""
    x, y, z = dims
    return x * y * z


def evenness(blocks: int) -> float:
    """What all multiprocessors could do while the busiest one works, over the work."""
    return -(-blocks // PROCESSORS) * PROCESSORS / blocks


@functools.cache
def _walk(ptx: str) -> Walk:
    return Walk(ptx)


def followed(launch: Launch, report: KernelReport) -> tuple[float, float]:
    """Means over PLACES: instructions of a warp, and bytes that a thread copies."""
    _, grid, block, values, _ = launch
    arrays = [v for v in values if isinstance(v, np.ndarray) and v.shape]
    tables = [a for a in arrays if a.dtype.kind in "iu" and a.nbytes <= TABLE]

    def load(address: int, size: int) -> int | None:
        for table in tables:
            start = table.ctypes.data
            if start <= address <= start + table.nbytes - size:
                return int.from_bytes(ctypes.string_at(address, size), "little")
        return None

    def bytes_of(value: Any) -> bytes:
        if value is None:
            return packed(0)
        array = isinstance(value, np.ndarray) and value.shape
        return packed(value.ctypes.data if array else value)

    walk = _walk(report.ptx)
    parameters = [bytes_of(value) for value in values]
    blocks, threads = count_blocks(grid), count_blocks(block)
    counted = []
    for place in PLACES:
        thread = min(int(place * threads) // 32 * 32 + LANE, threads - 1)
        here = special(grid, block, int(place * blocks), thread)
        counted.append(walk.count(parameters, load, here))
    return (
        statistics.mean(each.instructions for each in counted),
        statistics.mean(each.copied for each in counted),
    )


def moved(call: Call, launch: Launch, alone: bool) -> float:
    """Bytes that a launch moves: its op's, or each of its arrays once if others run."""
    if alone:
        return cost(call.op, call.arguments).bytes
    arrays = [v for v in launch[3] if isinstance(v, np.ndarray) and v.shape]
    return sum(array.nbytes for array in arrays)


def predict(
    call: Call, launch: Launch, report: KernelReport, alone: bool
) -> Prediction:
    """One launch.

    Args:
        alone: whether its op launches nothing else.
    """
    kernel, grid, block, *_ = launch
    blocks, warps = count_blocks(grid), -(-count_blocks(block) // 32)
    instructions, copied = followed(launch, report)
    busiest = evenness(blocks)
    products = 0.0
    if kernel.name.startswith("conv_"):
        flops = call.arguments["shape"].flops_made
        products = flops / RATES[kernel.instance.group]
    parts = {
        "memory": moved(call, launch, alone) / MEMORY,
        "products": busiest * products,
        "issue": busiest * blocks * warps * instructions / rate_of_issue(),
        "cache": busiest * blocks * count_blocks(block) * copied / CACHE,
    }
    return Prediction(call.place, call.name, kernel.name, blocks, warps, parts)


def rate_of_issue() -> float:
    """Warps' instructions a second, of all multiprocessors."""
    return PROCESSORS * ISSUED * CLOCK


def predictions(
    reports: Mapping[str, KernelReport], arch: str, batch: int, precision: str
) -> list[Prediction]:
    """All launches of a training step, in order.

    Args:
        reports: of the kernels, compiled for ARCH, by name.
    """
    return [
        predict(call, launch, reports[launch[0].name], len(noted) == 1)
        for call, noted in launches(arch, batch, precision)
        for launch in noted
    ]


def compiled() -> dict[str, KernelReport]:
    """Every kernel, compiled for ARCH, by name.

    Raises:
        MinicnnError: NVRTC is absent.
    """
    from minicnn.compile.kernel_source import FOLDER

    files = sorted(FOLDER.glob("*.cu"))
    return {
        report.name: report
        for file in files
        for report in nvrtc.compile_report(file, ARCH)
    }


def by_kernel(found: Iterable[Prediction]) -> dict[str, tuple[int, float]]:
    """How often each kernel is launched, and the seconds of all its launches."""
    sums: dict[str, tuple[int, float]] = {}
    for each in found:
        count, seconds = sums.get(each.kernel, (0, 0.0))
        sums[each.kernel] = count + 1, seconds + each.seconds
    return sums


def total(found: Sequence[Prediction]) -> float:
    """Seconds of a step: kernels run one after another."""
    return sum(each.seconds for each in found)


@click.command()
@click.option("--precision", type=click.Choice(PRECISIONS), default=PRECISIONS[0])
@click.option("--arch", default=NET, show_default=True)
@click.option("--batch", default=BATCH, show_default=True)
def main(precision: str, arch: str, batch: int) -> None:
    """Prints every launch of a step and what it should take, in microseconds."""
    found = predictions(compiled(), arch, batch, precision)
    names = list(found[0].parts)
    head = "".join(f"{name:>10}" for name in (*names, "predicted"))
    click.echo(f"{'':6}{'kernel':44}{'blocks':>7}{head}")
    for each in found:
        parts = "".join(f"{each.parts[name] * 1e6:10.1f}" for name in names)
        click.echo(
            f"{each.place:6}{each.kernel:44}{each.blocks:7}{parts}"
            f"{each.seconds * 1e6:10.1f}"
        )
    click.echo(
        f"{len(found)} kernels, {total(found) * 1e3:.2f} ms a step: predicted for an "
        "H200, run on none"
    )


if __name__ == "__main__":
    main()
