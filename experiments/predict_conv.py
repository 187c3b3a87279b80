"""What the convolutions of caffenet should take on an H200: arithmetic, no measurement.

    python -m minicnn.experiments.predict_conv [--precision tf32] [--batch 256]

For each kernel the plan gives tiles, steps and slices. A step of a block takes the
longest of four times: its products, its shared memory, its reads through the level-2
cache, and its instructions; blocks run in rounds. A kernel takes no less than its
arrays need to pass through memory once. What comes out is a lower bound by this model:
no latency, no barrier and no clock that drops under load is in it. To be held against
measurements, layer by layer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import click

from minicnn.ops.conv import ConvShape
from minicnn.ops.conv_plan import (
    DATA,
    FORWARD,
    PROCESSORS,
    STEP,
    WEIGHTS,
    Kind,
    Plan,
    ceil_div,
    plan,
)
from minicnn.precision import BF16

# Assumptions. The first two are measured on an H200: a product of large bfloat16
# matrices by wgmma, and a copy.
PEAK, MEMORY = 790e12, 4.3e12
# Of the peak, what mma.sync reaches on Hopper: published measurements.
MMA_SHARE = {BF16: 0.63, "tf32": 0.315}
# Level-2 cache to all multiprocessors: published measurements of an H100, the lower.
CACHE = 5.5e12
CLOCK = 1.755e9
# What a multiprocessor does in a clock: bytes of shared memory, and instructions.
SHARED_BYTES, ISSUED = 128, 4
# Instructions of a step beside mma and ldmatrix, of a warp: counted in sm_90 machine
# code, 110 to 240 by kernel.
OTHERS = 200

# caffenet, batch 1; conv1 as space-to-depth makes it: 57 × 57 × 48 from 227 × 227 × 3.
CAFFENET = {
    "conv1": ConvShape(1, 57, 57, 48, 96, 3, 3),
    "conv2": ConvShape(1, 27, 27, 96, 256, 5, 5, pad=(2, 2), groups=2),
    "conv3": ConvShape(1, 13, 13, 256, 384, 3, 3, pad=(1, 1)),
    "conv4": ConvShape(1, 13, 13, 384, 384, 3, 3, pad=(1, 1), groups=2),
    "conv5": ConvShape(1, 13, 13, 384, 256, 3, 3, pad=(1, 1), groups=2),
    "fc6": ConvShape(1, 6, 6, 256, 4096, 6, 6),
    "fc7": ConvShape(1, 1, 1, 4096, 4096, 1, 1),
    "fc8": ConvShape(1, 1, 1, 4096, 1000, 1, 1),
}


@dataclass(frozen=True)
class Prediction:
    """Of one kernel: its plan, and seconds.

    Attributes:
        how: the plan.
        rounds: blocks that the busiest multiprocessor runs one after another.
        ideal: its products at MMA_SHARE, on all multiprocessors all the time.
        step: what a step of a block takes, by what bounds it.
        seconds: what the kernel takes.
    """

    how: Plan
    rounds: int
    ideal: float
    step: dict[str, float]
    seconds: float


def sizes(shape: ConvShape) -> dict[str, tuple[int, int, int]]:
    """M, N and K of each kernel, for stride 1."""
    pixels, inputs = shape.n * shape.p * shape.q, shape.n * shape.h * shape.w
    window = shape.r * shape.s
    return {
        FORWARD: (pixels, shape.features, shape.taps),
        DATA: (inputs, shape.depth, window * shape.features),
        WEIGHTS: (shape.features, shape.taps, pixels),
    }


def warp_tile(how: Plan) -> tuple[int, int]:
    """WM and WN of kernels/gemm_mma.cuh."""
    rows = 4 if how.tile[0] > 128 else 2
    return how.tile[0] // rows, how.tile[1] // (how.threads // 32 // rows)


def step_times(how: Plan) -> dict[str, float]:
    """Seconds of a step of a block that has a multiprocessor for itself."""
    (m, n, _), (wm, wn), warps = how.tile, warp_tile(how), how.threads // 32
    rate = PEAK * MMA_SHARE[how.kind] / PROCESSORS
    lines = 64 * (m + n)  # bytes
    read = 64 * (wm + wn) * warps
    # Of 32 bytes of K each: 16 × 8 sums, and four registers of 16 lines.
    mma, ldmatrix = 2 * (wm // 16) * (wn // 8), 2 * (wm + wn) // 16
    return {
        "mma": 2 * m * n * STEP[how.kind] / rate,
        "shared": (lines + read) / SHARED_BYTES / CLOCK,
        "cache": lines / (CACHE / PROCESSORS),
        "issue": warps * (mma + ldmatrix + OTHERS) / ISSUED / CLOCK,
    }


def predict(kernel: str, shape: ConvShape, kind: Kind) -> Prediction:
    """One kernel on one problem of stride 1."""
    shape = shape.in_one_row()
    m, n, k = sizes(shape)[kernel]
    how = plan(kernel, kind, (m, n, k), shape.groups, True)
    rounds = ceil_div(how.tiles * how.slices * shape.groups, PROCESSORS)
    step = step_times(how)
    number = 64 // STEP[kind]  # bytes
    arrays = number * (
        shape.n * shape.h * shape.w * shape.c
        + shape.n * shape.p * shape.q * shape.k
        + shape.k * shape.taps
    )
    out = 4 if kernel == WEIGHTS else number
    sums = how.tile[0] * how.tile[1] * out / (CACHE / PROCESSORS)
    if how.slices > 1:  # each partial sum is written and read
        arrays += 8 * how.slices * shape.k * shape.taps
    busy = rounds * (how.steps * max(step.values()) + sums)
    ideal = shape.flops / (PEAK * MMA_SHARE[kind])
    return Prediction(how, rounds, ideal, step, max(busy, arrays / MEMORY))


def predictions(kind: Kind, batch: int) -> dict[tuple[str, str], Prediction]:
    """All kernels of a training step of caffenet, by layer and kernel."""
    return {
        (layer, kernel): predict(kernel, replace(shape, n=batch), kind)
        for layer, shape in CAFFENET.items()
        for kernel in (FORWARD, DATA, WEIGHTS)
        if (layer, kernel) != ("conv1", DATA)  # nobody wants the images' gradient
    }


@click.command()
@click.option("--precision", type=click.Choice(["bf16", "tf32"]), default="bf16")
@click.option("--batch", default=256, show_default=True)
def main(precision: str, batch: int) -> None:
    """Prints the table."""
    kind: Kind = BF16 if precision == "bf16" else "tf32"
    print("layer kernel                 tile     slices rounds bound   ideal µs   µs")
    total = ideal = 0.0
    for (layer, kernel), one in predictions(kind, batch).items():
        total, ideal = total + one.seconds, ideal + one.ideal
        tile = f"{one.how.tile[0]}×{one.how.tile[1]}"
        bound = max(one.step, key=one.step.__getitem__)
        print(
            f"{layer:5} {kernel:22} {tile:8} {one.how.slices:6} {one.rounds:6} "
            f"{bound:7} {one.ideal * 1e6:8.0f} {one.seconds * 1e6:5.0f}"
        )
    print(f"all {ideal * 1e3:.2f} ms at least, {total * 1e3:.2f} ms predicted")


if __name__ == "__main__":
    main()
