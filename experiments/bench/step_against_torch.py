"""minicnn's training step beside PyTorch's: the tables of docs/performance.md.

    python -m minicnn.experiments.bench.step_against_torch [--arch NAMES]
        [--batch SIZES] [--device cpu] [--threads N]
        [--rounds 9] [--modes all|eager|compiled|NAME,…]
        [--layers] [--json FILE] [--record]

`against_torch` says what is measured and how. `--layers` then times each of the eight
layers alone, forward and backward: minicnn's ops by `minicnn bench`, PyTorch's layers
as they are (compiled ones have no layers), in the memory format that was the faster for
the whole step. `--record` keeps the result in experiments/results and writes its table
into docs/performance.md. The exit status is 3 where PyTorch is absent or failed, and 2
where anything else did.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import click

from minicnn.base.errors import MinicnnError
from minicnn.devices import device as devices
from minicnn.experiments.bench import against_torch, torch_step
from minicnn.experiments.bench import ops as bench
from minicnn.experiments.bench.against_torch import Contender, TorchFailed
from minicnn.experiments.bench.comparison import Record, table
from minicnn.experiments.bench.provenance import ROOT, json_option, keep, provenance
from minicnn.experiments.bench.torch_step import Mode
from minicnn.experiments.printing import markdown
from minicnn.nn import architectures
from minicnn.training.environment import describe

PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "experiments" / "results"
FAILED, TORCH_FAILED = 2, 3  # exit statuses
Nets = list[tuple[str, int]]
# What is compared unless asked for otherwise, by kind of device: networks and batches.
NETS: dict[str, dict[str, tuple[int, ...]]] = {
    "cpu": {"caffenet": (32,), "caffenet64": (128,), "caffenet32": (32, 128)},
    "cuda": {"caffenet": (256,), "caffenet64": (256,)},
}

TIMES = "ms (least–most)", "images/s"
HEAD = ("network", "batch", "minicnn", *TIMES, "PyTorch's best", *TIMES, "ratio")


def report(result: Record) -> str:
    """The result's table, one row a network and precision, and where it is from."""

    def cells(turns: Record) -> tuple[str, str]:
        numbers = turns["median"], min(turns["seconds"]), max(turns["seconds"])
        median, least, most = (f"{1e3 * each:.2f}" for each in numbers)
        return f"{median} ({least}–{most})", f"{turns['images_per_second']:,.1f}"

    rows = []
    for net in result["nets"]:
        ours = {each["precision"]: cells(each) for each in net["ours"]}
        for theirs in net["theirs"]:
            if theirs["name"] in net["best"].values():
                for name, ratio in theirs["ratios"].items():
                    row = [net["arch"], str(net["batch"]), name, *ours[name]]
                    row += [theirs["name"], *cells(theirs), f"{ratio:.2f}"]
                    rows.append(row)
    about, machine = result["provenance"], result["environment"]
    device = machine.get("gpu") or f"{machine['threads']} threads, {about['machine']}"
    busy = [net["busy"] for net in result["nets"] if net["busy"] is not None]
    said = f", {max(busy):.1f} processors busy with other programs" if busy else ""
    origin = (
        f"Medians of {result['rounds']} rounds; {device}{said}; PyTorch "
        f"{result['torch']}, NumPy {machine['numpy']}, {machine['blas']}; "
        f"{about['date']}, commit {about['commit']}: `{about['command']}`"
    )
    parts = [layers_table(net) for net in result["nets"] if "layers" in net]
    return "\n\n".join([markdown(HEAD, rows), origin, *parts])


def layers_table(net: Record) -> str:
    """A network's layers, one row each."""
    layout = "channels_last" if net["channels_last"] else "NCHW"
    title = f"{net['arch']}, batch {net['batch']}"
    head = title, "minicnn ms", f"PyTorch fp32 {layout} ms", "ratio"
    rows = [
        (name, f"{ours * 1e3:.2f}", f"{theirs * 1e3:.2f}", f"{theirs / ours:.2f}")
        for name, (ours, theirs) in net["layers"].items()
    ]
    return markdown(head, rows)


def layer_of(name: str) -> str:
    """The paper's layer that a part or an op's place belongs to, such as "layer 5"."""
    return f"layer {name[-1]}" if name[-1:].isdigit() else ""


def our_layers(rows: list[Record]) -> dict[str, float]:
    """Seconds of each layer's ops, of the loss and of the update; without the rest."""
    others = {"softmax.cross_entropy": "loss", "sgd.update": "update"}
    taken: dict[str, float] = {}
    for row in rows:
        if name := layer_of(row["place"]) or others.get(row["op"]):
            taken[name] = taken.get(name, 0.0) + row["seconds"]
    return taken


def their_layers(
    torch: Any, dev: Any, arch: str, batch: int, last: bool
) -> dict[str, float]:
    """Seconds of each layer of PyTorch's, of the loss and of the update, float32."""
    shape = architectures.get(arch)
    wait = dev.synchronize if dev.on_host else torch.cuda.synchronize
    layout = torch.channels_last if last else torch.contiguous_format
    place = against_torch.on_torch(torch, dev)
    net = torch_step.build(torch, shape, bench.OUTPUTS).to(place, memory_format=layout)
    parts: dict[str, list[Any]] = {}
    for name, module in net.named_children():
        parts.setdefault(layer_of(name) or "layer 6", []).append(module)
    x = torch.randn(batch, 3, shape.crop, shape.crop, device=place)
    x = x.contiguous(memory_format=layout)
    labels = torch.zeros(batch, dtype=torch.long, device=place)
    taken: dict[str, float] = {}

    def time(name: str, work: Any) -> None:
        taken[name] = Contender(name, "fp32", work, wait).settled()

    torch_step.use(torch, "fp32")
    for name, modules in parts.items():
        part = torch.nn.Sequential(*modules).train()
        y = part(x).detach()
        dy = torch.randn_like(y)

        def both(part: Any = part, x: Any = x, dy: Any = dy) -> None:
            part.zero_grad()
            part(x).backward(dy)

        time(name, both)
        x = y.requires_grad_()  # from the second layer on, x has a gradient too
    score = torch.nn.functional.cross_entropy
    time("loss", lambda: score(x, labels).backward())
    time("update", torch_step.optimizer(torch, net).step)
    return taken


def layers(dev: Any, net: Record) -> Record:
    """What `--layers` adds to a network's result."""
    arch, batch = net["arch"], net["batch"]
    last = "channels_last" in net["best"].get("fp32", "channels_last")
    ours = our_layers(bench.bench(dev, arch, batch)["rows"])
    theirs = their_layers(against_torch.require(dev), dev, arch, batch, last)
    both = {name: (ours[name], theirs[name]) for name in sorted(ours)}
    return {"channels_last": last, "layers": both}


def insert(page: str, mark: str, table: str) -> str:
    """The page with what stands at that mark replaced."""
    before, begin, rest = page.partition(f"<!-- {mark} -->\n")
    _, end, after = rest.partition("<!-- end -->")
    if not end:
        raise click.ClickException(f"{PAGE.name} has no place marked <!-- {mark} -->")
    return f"{before}{begin}{table}\n{end}{after}"


def wanted(archs: str | None, batches: str | None, kind: str) -> Nets:
    """Networks and their batches, from the options.

    Raises:
        click.BadParameter: there is not one batch, or one for each network.
    """
    usual = NETS[kind]
    names = archs.split(",") if archs else list(usual)
    if not batches:
        largest = [max(itertools.chain(*usual.values()))]
        return [(n, batch) for n in names for batch in usual.get(n, largest)]
    given = batches.split(",") * (len(names) if "," not in batches else 1)
    if len(given) != len(names) or not all(each.isdigit() for each in given):
        what = f"{batches}: give a number of images, or one for each of {names}"
        raise click.BadParameter(what, param_hint="--batch")
    return list(zip(names, map(int, given), strict=True))


def chosen(which: str, cuda: bool) -> list[Mode]:
    """PyTorch's modes that `--modes` means, on a GPU or a CPU.

    Raises:
        click.BadParameter: there is none of that name.
    """
    every = torch_step.modes(cuda)
    kinds = {
        "all": every,
        "eager": [mode for mode in every if not mode.compiled],
        "compiled": [mode for mode in every if mode.compiled],
    }
    named = {mode.name: [mode] for mode in every} | kinds
    parts = which.split(",")
    if unknown := [name for name in parts if name not in named]:
        what = f"{unknown[0]}: unknown; choose from {', '.join([*kinds, *named])}"
        raise click.BadParameter(what, param_hint="--modes")
    return [mode for name in parts for mode in named[name]]


def measure(
    dev: Any, nets: Nets, rounds: int, modes: list[Mode], by_layer: bool, out: Any
) -> Record:
    """The comparisons of all networks; prints each one's table.

    Args:
        out: where what there is so far is written after every round, so that little is
            lost where time ends, or PyTorch fails.
    """
    compared: list[Record] = []
    result = {
        "provenance": provenance(),
        "environment": describe(dev),
        "torch": against_torch.require(dev).__version__,
        "rounds": rounds,
        "nets": compared,
    }
    for arch, batch in nets:
        compared.append({})
        for made in against_torch.comparing(dev, arch, batch, rounds, modes):
            compared[-1] = made
            keep(out, result)
        click.echo(table(made) + "\n")
        if by_layer:
            compared[-1] |= layers(dev, made)
    return result


@click.command()
@click.option("--arch", help="Networks; default: by device.")
@click.option("--batch", help="Images, for all networks or each; default: by device.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--threads", type=int, help="CPU threads of both; default: all cores.")
@click.option("--rounds", default=9, show_default=True, help="Turns of each.")
@click.option(
    "--modes",
    default="all",
    show_default=True,
    help="Of PyTorch: all, eager, compiled (a minute each), or their names.",
)
@click.option("--layers", "by_layer", is_flag=True, help="Also time each layer alone.")
@json_option
@click.option("--record", is_flag=True, help="Keep the result, and write its table.")
def main(
    arch: str | None,
    batch: str | None,
    device: str,
    threads: int | None,
    rounds: int,
    modes: str,
    by_layer: bool,
    out: Path | None,
    record: bool,
) -> None:
    """minicnn's training step beside PyTorch's."""
    try:
        dev = devices.get(device, threads)
        kind = "cuda" if dev.name.startswith("cuda") else "cpu"
        how = chosen(modes, kind == "cuda")
        nets = wanted(arch, batch, kind)
        result = measure(dev, nets, rounds, how, by_layer, out)
    except MinicnnError as error:
        click.echo(str(error), err=True)
        sys.exit(TORCH_FAILED if isinstance(error, TorchFailed) else FAILED)
    text = report(result)
    click.echo(text)
    keep(out, result)
    if record:
        date = result["provenance"]["date"]
        keep(RESULTS / f"{date}-bench-torch-{kind}.json", result)
        PAGE.write_text(insert(PAGE.read_text(), f"bench-torch {kind}", text))


if __name__ == "__main__":
    main()
