"""Every tile that a convolution may run with, timed in each layer of a network.

    python experiments/tiles.py [--device cuda] [--arch caffenet] [--batch 256]
        [--precision bf16,tf32,tf32x3,fp32] [--json FILE]

`conv_plan` chooses by a model: how many rounds of blocks a tile makes, and a speed of
its own, which is a guess until this has run on a card. A weight gradient is timed in
as many slices as its plan has, since its array holds so many.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from minicnn.base.errors import MinicnnError
from minicnn.base.precision import get as get_precision
from minicnn.devices import device
from minicnn.devices.launch import c_name
from minicnn.experiments import predict
from minicnn.experiments.bench.ops import Call, Step
from minicnn.ops.conv import plan as conv_plan
from minicnn.ops.conv.plan import DATA, FORWARD, WEIGHTS, Kind, Tile

KERNELS = {
    "conv.forward": FORWARD,
    "conv.backward_data": DATA,
    "conv.backward_weights": WEIGHTS,
}


@dataclass(frozen=True)
class Timed:
    """A layer's pass with one tile.

    Attributes:
        layer, kernel, kind: which, and its type of numbers.
        tile: rows, columns and numbers read as one.
        seconds: of the op, with the small launches that belong to it.
        chosen: whether it is the plan's.
    """

    layer: str
    kernel: str
    kind: str
    tile: Tile
    seconds: float
    chosen: bool


@contextmanager
def only(kind: Kind, kernel: str, tile: Tile) -> Iterator[None]:
    """Plans of a kernel have that tile."""
    before = conv_plan.TILES[kind]
    conv_plan.TILES[kind] = {**before, kernel: {tile: 1.0}}
    try:
        yield
    finally:
        conv_plan.TILES[kind] = before


def template(dev: Any, call: Call, kernel: str) -> tuple[str, ...]:
    """The template arguments of the kernel that a call launches."""
    names = {launch[0].name for launch in predict.launched(dev, call)}
    (name,) = {each for each in names if each.startswith(kernel)}
    return tuple(name.partition("<")[2].rstrip(">").split(", "))


def measure(dev: Any, arch: str, batch: int, precision: str) -> list[Timed]:
    """Every tile in every convolution of a step."""
    step = Step(dev, arch, batch, precision)
    meter, how = dev.meter(), get_precision(precision)
    found = []
    for call in step.recorded():
        kernel = KERNELS.get(call.name)
        if kernel is None:
            continue
        name, *numbers = template(dev, call, kernel)
        chosen = tuple(map(int, numbers))
        kinds: tuple[Kind, ...] = how.activations, how.tensor or how.activations
        (kind,) = {each for each in kinds if c_name(each) == name}
        for tile in conv_plan.offered(kernel, kind, chosen[2] > 1):
            with only(kind, kernel, tile):
                seconds = meter.seconds(
                    lambda call=call: call.op(dev, **call.arguments)
                )
            about = call.place, kernel, name
            found.append(Timed(*about, tile, seconds, tile == chosen))
    return found


def slower(found: list[Timed]) -> float:
    """Seconds that the plans' tiles take above the fastest ones, of all passes."""
    passes: dict[tuple[str, str], list[Timed]] = {}
    for each in found:
        passes.setdefault((each.layer, each.kernel), []).append(each)
    return sum(
        sum(each.seconds for each in tiles if each.chosen)
        - min(each.seconds for each in tiles)
        for tiles in passes.values()
    )


def result(
    dev: Any, arch: str, batch: int, found: dict[str, list[Timed]]
) -> dict[str, Any]:
    """As JSON has it."""
    from minicnn.training.environment import describe

    rows = {key: [asdict(each) for each in tiles] for key, tiles in found.items()}
    lost = {key: slower(tiles) for key, tiles in found.items()}
    about = {"arch": arch, "batch": batch, "environment": describe(dev)}
    return {**about, "tiles": rows, "lost": lost}


@click.command()
@click.option("--device", "name", default="cuda", show_default=True)
@click.option("--arch", default="caffenet", show_default=True)
@click.option("--batch", default=256, show_default=True)
@click.option(
    "--precision", "names", default=",".join(predict.PRECISIONS), show_default=True
)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Result file.")
def main(name: str, arch: str, batch: int, names: str, out: Path | None) -> None:
    """Time every tile of every convolution; * marks the plan's."""
    from minicnn.base.files import write_json

    try:
        dev = device.get(name)
        if not dev.has_kernels:
            raise MinicnnError(f"--device {name}: has no kernels; use cuda or emulated")
        found: dict[str, list[Timed]] = {}
        for precision in names.split(","):
            found[precision] = measure(dev, arch, batch, precision)
            for each in found[precision]:
                mark = "*" if each.chosen else ""
                click.echo(
                    f"{each.layer:6}{each.kernel:23}{each.kind:8}{each.tile!s:15}"
                    f"{each.seconds * 1e6:10.1f} µs {mark}"
                )
            lost = slower(found[precision]) * 1e6
            click.echo(f"{precision}: the plans lose {lost:.0f} µs a step\n")
            if out:  # what there is so far
                write_json(out, result(dev, arch, batch, found))
    except MinicnnError as error:
        raise click.BadParameter(str(error)) from None


if __name__ == "__main__":
    main()
