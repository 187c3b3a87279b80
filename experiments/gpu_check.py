"""Proves and measures minicnn on a GPU, what matters most first: one command.

    python experiments/gpu_check.py [--minutes 9] [--out gpu_check.json]

A card may be at hand for minutes only. So each section is a process of its own with a
time limit: one that fails, hangs or takes the driver with it is noted in one line, and
the next goes on. The JSON file is written after each; the same command completes what
is missing, then tries again what failed. Time that a section leaves goes to the next.

Runs from a source tree that is not installed, without network. `--device emulated`
rehearses all in small: there PyTorch is compared on the cpu device, and the
tests marked `gpu` run on their stand-in for CuPy.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

if __name__ == "__main__":  # a tree that is not installed runs, too
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from minicnn.base.files import read_json, write_json
from minicnn.compile.kernel_source import c_name
from minicnn.devices import device as devices
from minicnn.devices.recording import recorded_launches
from minicnn.experiments.bench.ops import Step
from minicnn.experiments.bench.provenance import ROOT
from minicnn.experiments.printing import columns
from minicnn.ops.conv import plan
from minicnn.training.environment import describe

Record = dict[str, Any]
OK, FAILED, SKIPPED = "ok", "FAILED", "skipped"
ENVIRONMENT = "environment"
FILE = "{file}"  # in a command: the file that the process writes
LEAST = 10.0  # seconds that a section needs to be worth starting
GRACE = 15.0  # seconds of a long section's limit to write what there is, interrupted
STEPS = 5  # of the smoke run: as written, recorded, and three times repeated
RATE = 0.001  # learning rate of the smoke run
# Largest difference of the smoke run's losses from the cpu's, beside the first loss.
LIMITS = {"bf16": 1e-2, "fp32": 1e-3, "tf32": 3e-3, "tf32x3": 1e-3, "fp64": 1e-9}
PRECISIONS = tuple(LIMITS)[:4]
PYTHON = shlex.quote(sys.executable)
# A process that calls a function of this file with the texts that follow.
CALL = (
    f"{PYTHON} -c 'import sys; from minicnn.experiments import gpu_check; "
    "getattr(gpu_check, sys.argv[1])(*sys.argv[2:])' "
)


@dataclass(frozen=True)
class Section:
    """One thing to do: its limit where later sections want the rest of the time, the
    device it runs on, and a command that writes FILE, or its standard output."""

    seconds: float
    device: str
    command: str


# --- What runs in the processes -----------------------------------------------------


def environment(out: str, name: str) -> None:
    """Device, machine, versions, commit."""
    write_json(Path(out), describe(devices.get(name)))


def losses(dev: Any, arch: str, batch: int, precision: str) -> Any:
    """The losses of STEPS updates on one batch of random images."""
    step = Step(dev, arch, batch, precision, RATE)
    step.solver.set_rate(0)
    sums = [0.0]
    for _ in range(STEPS):
        step.whole()
        sums.append(float(dev.to_host(step.totals)[0]))
    return (np.diff(sums) / batch).tolist()


def smoke(out: str, name: str, arch: str, batch: str) -> None:
    """STEPS updates in each precision; their losses beside the cpu device's."""
    cpu, dev, size = devices.get("cpu"), devices.get(name), int(batch)
    record, problems = {}, []
    for precision, limit in LIMITS.items():
        expected = losses(cpu, arch, size, precision)
        found = record[precision] = {"cpu": expected}
        try:
            found[name] = losses(dev, arch, size, precision)
            off = np.abs(np.subtract(found[name], expected)).max() / expected[0]
            found["off"] = float(off)
            if not off <= limit:  # or it is NaN
                problems.append(f"{precision}: off by {off:.1e}")
        except Exception as error:  # the other precisions are still to come
            problems.append(f"{precision}: {error}")
        write_json(Path(out), {"smoke": record})
    sys.exit("; ".join(problems) or None)


def tiles(out: str, name: str, arch: str, batch: str) -> None:
    """Every tile that a convolution may run with, in each layer of a step."""
    dev, record = devices.get(name), {}
    for precision in PRECISIONS:
        calls = Step(dev, arch, int(batch), precision).recorded()
        record[precision] = [found for call in calls for found in timed(dev, call)]
        write_json(Path(out), {"tiles": record})


def timed(dev: Any, call: Any) -> list[Record]:
    """Seconds of a convolution with each tile, in as many slices as its plan has."""
    kernel = call.name.replace(".", "_")
    if kernel not in plan.TILES[plan.FLOAT]:
        return []  # another op
    with recorded_launches(dev) as launches:
        call.op(dev, **call.arguments)
    (name,) = {each[0].name for each in launches if each[0].name.startswith(kernel)}
    typename, *numbers = name.partition("<")[2].rstrip(">").split(", ")
    chosen = tuple(map(int, numbers))
    (kind,) = [each for each in plan.TILES if c_name(each) == typename]
    every, meter, seconds = plan.TILES[kind], dev.meter(), {}
    for tile in plan.offered(kernel, kind, chosen[2] > 1):
        plan.TILES[kind] = {**every, kernel: {tile: 1.0}}
        seconds[str(tile)] = meter.seconds(lambda: call.op(dev, **call.arguments))
    plan.TILES[kind] = every
    about = {"layer": call.place, "kernel": kernel, "chosen": str(chosen)}
    return [{**about, "seconds": seconds}]


# --- What is made of their files ----------------------------------------------------


def read(file: Path) -> Record:
    """What a section wrote: JSON, or pytest's output."""
    text = file.read_text()
    if text[:1] == "{":
        return json.loads(text)
    lines = text.splitlines()
    failed = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    return {"tests": lines[-1], "failed": failed}


def summary(found: Record) -> str:
    """One line on what a section wrote."""
    match found:
        case {"smoke": each}:
            offs = (f"{name} {ways.get('off', 1):.0e}" for name, ways in each.items())
            return f"losses off the cpu's by {', '.join(offs)}"
        case {"nets": [net]}:
            parts = [(e["precision"], e["median"]) for e in net["ours"]]
            parts += [(f"PyTorch {e['name']}", e["median"]) for e in net["theirs"]]
            times = [f"{name} {seconds * 1e3:.2f} ms" for name, seconds in parts]
            bad = [f"PyTorch {mode} failed" for mode in net["failed"]]
            return ", ".join(times + bad)
        case {"checks": checks}:
            bad = [f"{c['op']}, {c['case']}" for c in checks if not c["ok"]]
            return ", ".join([f"{len(checks)} checks, {len(bad)} failed", *bad[:1]])
        case {"tests": counts}:
            return counts
        case {"step": seconds}:
            return f"{seconds * 1e3:.2f} ms a step"
        case {"tiles": each}:
            lost = {name: sum(map(slower, passes)) for name, passes in each.items()}
            said = ", ".join(f"{name} {1e6 * s:.0f} µs" for name, s in lost.items())
            return f"the plans lose a step: {said}"
    return f"{found.get('gpu', found['device'])}, {found['commit']}"


def slower(timed: Record) -> float:
    """Seconds of the plan's tile above the fastest one's."""
    return timed["seconds"][timed["chosen"]] - min(timed["seconds"].values())


def sections(device: str) -> dict[str, Section]:
    """All of them by name, in the order of their worth."""
    card = device.startswith("cuda")
    # Without a card: a small net, and PyTorch on the cpu device, in fp32 alone.
    host, kinds = (device, ("bf16", "fp32", "tf32")) if card else ("cpu", ("fp32",))
    net, batch = ("caffenet", 256) if card else ("caffenet32", 1)
    sizes, on = f"--arch={net} --batch={batch}", f"--device={device}"
    small = "caffenet64 64" if card else f"{net} {batch}"
    module = f"{PYTHON} -m"
    grad = f"{module} minicnn gradcheck {on} --json"
    tests = f"{module} pytest -m gpu -n auto --dist=loadfile"
    if not card:
        grad += " --op=lrn"
        tests += " -p tests.support.cupy_stand_in tests/ops/test_lrn.py"

    torch = f"{module} minicnn.experiments.bench.against_torch --net {net} {batch}"
    torch += f" --json={FILE} --device={host} --rounds=5 --precision="
    bench = f"{module} minicnn bench {sizes} {on} --json --precision="
    every = {
        ENVIRONMENT: Section(20, device, f"{CALL} environment {FILE} {device}"),
        "smoke": Section(90, device, f"{CALL} smoke {FILE} {device} {small}"),
        **{f"step {k}": Section(75, host, f"{torch}{k} --eager") for k in kinds[:2]},
        "gradcheck": Section(60, device, grad),
        "tests": Section(150, device, tests),
        **{f"roofline {k}": Section(25, device, bench + k) for k in PRECISIONS},
        **{f"step {k}": Section(75, host, f"{torch}{k} --eager") for k in kinds[2:]},
        **{f"compiled {k}": Section(75, host, torch + k) for k in kinds},
        "tiles": Section(60, device, f"{CALL} tiles {FILE} {device} {net} {batch}"),
    }
    return every


# --- Running them -------------------------------------------------------------------


def ended(section: Section, limit: float, file: Path, said: Path) -> int | None:
    """A section's process, run to its end: its exit status; None: it took too long.

    Args:
        limit: seconds. Shortly before, the process is interrupted, as by Ctrl-C, to
            write what it has; at last it and all that it started are ended.
        file, said: where it writes its result, and all that it prints.
    """
    command = [w.replace(FILE, str(file)) for w in shlex.split(section.command)]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    fuzz = "30" if section.device.startswith("cuda") else "1"  # shapes of each property
    env = {**os.environ, "PYTHONPATH": path, "MINICNN_FUZZ_EXAMPLES": fuzz}
    own, grace = said if FILE in section.command else file, min(GRACE, limit / 4)
    with said.open("a") as log, own.open("a") as out:
        how: Any = {"stdout": out, "stderr": log, "start_new_session": True}
        process = subprocess.Popen(command, cwd=ROOT, env=env, **how)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(limit - grace)
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace)
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):  # nothing of it is left
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run(section: Section, limit: float) -> Record:
    """One section in a process of its own, within a limit of seconds: its record.

    Returns:
        "state", "date", "seconds", "device", "summary", and "found", what it wrote.
    """
    began, date = time.monotonic(), datetime.datetime.now(datetime.timezone.utc)
    found, said, problem, status = None, "", "", None
    with tempfile.TemporaryDirectory() as folder:
        file, log = Path(folder, "file"), Path(folder, "said")
        try:
            status = ended(section, limit, file, log)
            lines = log.read_text(errors="replace").strip().splitlines() or [""]
            if status != 0:
                took = f"took over {limit:.0f} s"
                problem = took if status is None else f"status {status}: {lines[-1]}"
            found = read(file)
            said = summary(found)
        except Exception as error:  # no file, or half of one
            problem = problem or repr(error)
    # A section that had less than its own time has not failed.
    cut = status is None and limit < section.seconds
    return {
        "state": OK if not problem else SKIPPED if cut else FAILED,
        "date": date.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - began, 1),
        "device": section.device,
        "summary": "; ".join(filter(None, (problem, said))),
        "found": found,
    }


def refuse_another(before: Record, now: Record, out: Path) -> None:
    """A file holds what one commit did on one card."""
    for what in ("commit", "device", "gpu") if before["found"] and now["found"] else ():
        old, new = (each["found"].get(what) for each in (before, now))
        if old != new:
            said = f"of {what} {old}, and this is {new}; name another file"
            raise click.ClickException(f"--out {out}: {said}")


def table(every: Mapping[str, Section], results: Mapping[str, Record]) -> str:
    """All sections, a line each."""
    missing = {"state": "missing", "seconds": 0.0, "device": "", "summary": ""}
    shown = {name: results.get(name, missing) for name in every}
    return columns(
        [{"section": n, **{k: each[k] for k in missing}} for n, each in shown.items()]
    )


@click.command()
@click.option("--device", default="cuda", show_default=True, help="Or: emulated.")
@click.option("--minutes", default=9.0, show_default=True, help="To take at most.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="gpu_check.json",
    show_default=True,
    help="Result file, which the same command completes.",
)
def main(device: str, minutes: float, out: Path) -> None:
    """Prove and measure minicnn on a GPU; again, the command completes the rest."""
    deadline = time.monotonic() + 60 * minutes
    # A shell has what runs in its background ignore SIGINT, and so would the sections.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    every = sections(device)
    results: dict[str, Record] = read_json(out) if out.exists() else {}
    # What is not done, in order; at last what failed.
    states = {name: results.get(name, {}).get("state") for name in every}
    names = [n for n, state in states.items() if state != OK and n != ENVIRONMENT]
    names = [ENVIRONMENT, *sorted(names, key=lambda name: states[name] == FAILED)]
    for number, name in enumerate(names):
        left = deadline - time.monotonic()
        if left < LEAST:
            click.echo(f"Time ends before {name}; the same command goes on there.")
            break
        later = sum(every[each].seconds for each in names[number + 1 :])
        record = run(every[name], min(left, max(every[name].seconds, left - later)))
        if name == ENVIRONMENT:
            refuse_another(results.get(name, record), record, out)
        results[name] = record
        write_json(out, results)
        click.echo(f"{name}: {record['state']}. {record['summary']}")
    click.echo("\n" + table(every, results))
    sys.exit(any(each["state"] == FAILED for each in results.values()))


if __name__ == "__main__":
    main()
