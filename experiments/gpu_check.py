"""Proves and measures everything on a GPU, with one command, in under nine minutes.

    python experiments/gpu_check.py [--out FILE] [--data STORE] [--minutes 9]
        [--only SECTION] ...

Every section runs in processes of its own, against its own time limit: one that fails,
hangs or crashes the GPU's driver is reported and the others go on. A table is printed
last, and one JSON file holds all of it; it is written after each section.

Works from a source tree that is not installed, with the core packages, CuPy and pytest;
PyTorch is compared with where there is one. Without a GPU the emulated device takes its
place in small, and what needs a GPU is named as skipped.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":  # runs from a tree that is not installed, too
    sys.path[0] = str(ROOT)
RESULTS = ROOT / "experiments" / "results"
TAIL = 25  # lines of a failed process that are shown
LEAST = 5.0  # seconds that a section needs to be worth starting
NETS = ("caffenet", "caffenet64")
PRECISIONS = ("fp32", "tf32", "bf16")
ROUNDS = 5  # turns of minicnn and of PyTorch
Record = dict[str, Any]


class Failed(Exception):
    """A section did not do what it should; the text says what."""


class Skipped(Exception):
    """A section cannot be run here; the text says why."""


@dataclass
class Checkup:
    """What all sections share.

    Attributes:
        gpu: whether a GPU answers.
        folder: for files, gone in the end.
        deadline: by time.monotonic().
        data: a store, or None for the demo set.
        results: each section's record, by name.
    """

    gpu: bool
    folder: Path
    deadline: float
    data: Path | None = None
    results: dict[str, Record] = field(default_factory=dict)

    @property
    def device(self) -> str:
        """The device that is checked."""
        return "cuda" if self.gpu else "emulated"

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def child(self, *arguments: str, limit: float) -> tuple[int, str]:
        """Runs Python on these arguments.

        Args:
            limit: seconds; the deadline may allow less.

        Returns:
            Exit status, and what it printed on both streams.

        Raises:
            Failed: it took too long; it and all that it started are ended.
        """
        limit = min(limit, self.left())
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # a group of its own, to end what it starts too
        )
        try:
            said, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said, _ = process.communicate()
            raise Failed(f"took over {limit:.0f} s\n{tail(said)}") from None
        return process.returncode, said

    def measured(self, *arguments: str, limit: float) -> Record:
        """Runs Python on these arguments and --json; the record that it writes.

        What went wrong after it was written is its "problem".

        Raises:
            Failed: it took too long, failed, or wrote none.
        """
        file = self.folder / f"{time.monotonic_ns()}.json"
        problem = ""
        try:
            status, said = self.child(*arguments, "--json", str(file), limit=limit)
            if status:
                problem = f"ended with status {status}\n{tail(said)}"
        except Failed as failure:
            problem = str(failure)
        if not file.exists():
            raise Failed(problem or "wrote no result")
        record = json.loads(file.read_text())
        return {**record, "problem": problem} if problem else record


def environment() -> dict[str, str]:
    """The environment of child processes: this tree first, stand-ins if need be."""
    path = [str(ROOT)]
    if importlib.util.find_spec("tomli_w") is None:
        path.append(str(ROOT / "experiments" / "stand_ins"))
    path += filter(None, [os.environ.get("PYTHONPATH")])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def tail(text: str) -> str:
    """The last lines of a process's output."""
    return "\n".join(text.rstrip().splitlines()[-TAIL:])


def about(check: Checkup) -> Record:
    """Where and when: device, versions, commit."""
    code = (
        "import json; from minicnn import device, environment; "
        f"print(json.dumps(environment.describe(device.get({check.device!r}))))"
    )
    status, said = check.child("-c", code, limit=60)
    if status:
        raise Failed(tail(said))
    record = json.loads(said.splitlines()[-1])
    from minicnn.environment import commit

    for package in ("torch", "pytest", "h5py"):
        try:
            record[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            record[package] = None
    record["commit"] = commit()
    record["date"] = datetime.datetime.now(datetime.timezone.utc).isoformat()[:19] + "Z"
    record["summary"] = (
        f"{record.get('gpu', 'no GPU')}, minicnn {record['minicnn']} at "
        f"{record['commit']}, CuPy {record.get('cupy')}, PyTorch {record['torch']}"
    )
    return record


def compiling(check: Checkup) -> Record:
    """Compiles every kernel; and again, which must find them in the cache."""
    seconds, files = [], []
    for _ in range(2):
        began = time.monotonic()
        command = "-m", "minicnn", "doctor", "--compile", "--json"
        status, said = check.child(*command, f"--device={check.device}", limit=200)
        seconds.append(round(time.monotonic() - began, 1))
        if status:
            raise Failed(tail(said))
        files = json.loads(said[said.index("[") :])
    kernels = sum(each["kernels"] for each in files)
    return {
        "files": files,
        "seconds_cold_and_cached": seconds,
        "summary": f"{kernels} kernels of {len(files)} files; first {seconds[0]} s, "
        f"then {seconds[1]} s",
    }


def testing(check: Checkup) -> Record:
    """Every test marked `gpu`."""
    if not check.gpu:
        raise Skipped("no GPU; 'make test' runs the same tests on the emulated device")
    pytest = "-m", "pytest", "-m", "gpu", "--continue-on-collection-errors"
    status, said = check.child(*pytest, "-p", "no:cacheprovider", limit=240)
    counts = counted(said)
    record = {"counts": counts, "summary": ", ".join(f"{n} {w}" for w, n in counts)}
    if status:
        failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
        return {**record, "failed": failed, "problem": tail(said)}
    return record


def counted(said: str) -> list[tuple[str, int]]:
    """The counts in pytest's last line: [("passed", 12), ("skipped", 3)]."""
    lines = [
        line for line in said.splitlines() if re.search(r"\d+ \w+.* in [\d.]+s", line)
    ]
    if not lines:
        raise Failed(tail(said))
    words = re.findall(r"(\d+) (passed|failed|skipped|errors?|deselected)", lines[-1])
    return [(word, int(number)) for number, word in words]


def gradients(check: Checkup) -> Record:
    """`minicnn gradcheck`."""
    command = "-m", "minicnn", "gradcheck", "--device", check.device, "--json"
    status, said = check.child(*command, limit=150)
    if status not in (0, 1) or '"checks"' not in said:
        raise Failed(tail(said))
    record = json.JSONDecoder().raw_decode(said[said.index("{") :])[0]
    checks = record["checks"]
    bad = [f"{c['op']}, {c['case']}, {c['dtype']}" for c in checks if not c["ok"]]
    share = max(c["error"] / c["limit"] if c["limit"] else c["error"] for c in checks)
    record["summary"] = (
        f"{len(checks)} checks; the worst fills {share:.0%} of its limit"
    )
    return {**record, "problem": "\n".join(bad)} if bad else record


def benchmark(check: Checkup, net: str) -> Record:
    """`minicnn bench`, and the same step in PyTorch."""
    device, batch = (check.device, 256) if check.gpu else ("cpu", 16)
    options = [f"--arch={net}", f"--batch={batch}", f"--device={device}"]
    record: Record = {}
    parts = [f"batch {batch}"]
    for precision in PRECISIONS if check.gpu else PRECISIONS[:1]:
        command = "-m", "minicnn", "bench", *options, f"--precision={precision}"
        ours = check.measured(*command, limit=120)
        record[f"minicnn {precision}"] = ours
        if ours.get("problem"):
            record["problem"] = ours["problem"]
        parts.append(f"minicnn {precision} {ours['step'] * 1e3:.2f} ms")
    if importlib.util.find_spec("torch") is None:
        parts.append("no PyTorch to compare with")
        return {**record, "summary": "; ".join(parts)}
    # Compiling is slow, and may hang: apart, so that it harms nothing else, and once.
    kinds = ["eager", "compiled"] if check.gpu and net == NETS[0] else ["eager"]
    for kind in kinds:
        record[f"torch {kind}"], said = beside_torch(check, kind, options)
        parts += said
    return {**record, "summary": "; ".join(parts)}


def beside_torch(
    check: Checkup, kind: str, options: list[str]
) -> tuple[Record, list[str]]:
    """`bench_torch.py` in PyTorch's modes of one kind, and what to say of it.

    That PyTorch fails is a pity, but no failure of ours.
    """
    script = str(ROOT / "experiments" / "bench_torch.py")
    few = [f"--modes={kind}", f"--rounds={ROUNDS}"]
    try:
        record = check.measured(script, *options, *few, limit=150)
    except Failed as failure:
        return {"problem": str(failure)}, [f"PyTorch {kind} failed"]
    del record["provenance"]  # it is this program's
    (net,) = record["nets"]
    said = [
        f"PyTorch {each['name']} {each['median'] * 1e3:.2f} ms, "
        f"{each['ratio']:.2f} × minicnn's in turns"
        for each in net["theirs"]
        if each["name"] in net["best"].values()
    ]
    return record, said


def comparing(check: Checkup) -> Record:
    """Demo trainings in reduced precision beside float32, over seeds."""
    if not check.gpu:
        raise Skipped("no GPU; 'experiments/compare_precisions.py' simulates it")
    script = str(ROOT / "experiments" / "compare_precisions.py")
    options = f"--device={check.device}", "--seeds=3", "--precision=tf32"
    record = check.measured(script, *options, "--precision=bf16", limit=150)
    record["summary"] = "; ".join(
        f"{row['precision']} {row['score']} {row['difference']:+.4f} "
        f"[{row['low']:+.4f}, {row['high']:+.4f}]"
        for row in record["comparison"]
    )
    return record


def emulating(check: Checkup) -> Record:
    """`minicnn bench` on the emulated device, where no GPU is."""
    if check.gpu:
        raise Skipped("a GPU is here")
    options = "--arch=caffenet32", "--batch=1", "--device=emulated"
    record = check.measured("-m", "minicnn", "bench", *options, limit=90)
    record["summary"] = f"caffenet32, batch 1: {record['step'] * 1e3:.0f} ms a step"
    return record


def training(check: Checkup) -> Record:
    """A short real training: like the CPU's, the same bits again and resumed."""
    store = check.data or check.folder / "demo.h5"
    if check.data is None:
        draw = "-m", "minicnn", "data", "demo", "-o", str(store)
        status, said = check.child(*draw, limit=90)
        if status:
            raise Failed(tail(said))
    script = str(ROOT / "experiments" / "compare_devices.py")
    options = [f"--device={check.device}", f"--data={store}"]
    if not check.gpu:
        options += ["--iterations=8", "--compared=8", "--batch=8", "--classes=2"]
    record = check.measured(script, *options, limit=120)
    record["summary"] = (
        f"{record['iterations']} updates in {record['seconds']} s, top-1 "
        f"{record['top1']:.1%}; first {len(record['cpu_losses'])} losses within "
        f"{record['largest_difference']:.1e} of the CPU's; same bits again: "
        f"{record['same_bits_again']}, resumed: {record['same_bits_resumed']}"
    )
    return record


SECTIONS: dict[str, Callable[[Checkup], Record]] = {
    "environment": about,
    "compile": compiling,
    "gradcheck": gradients,
    "tests": testing,
    "training": training,
    **{f"bench {net}": lambda check, net=net: benchmark(check, net) for net in NETS},
    "precisions": comparing,
    "bench emulated": emulating,
}


def run(check: Checkup, name: str, work: Callable[[Checkup], Record]) -> Record:
    """One section: its record, with "state", "seconds" and "summary"; never raises."""
    began = time.monotonic()
    try:
        if check.left() < LEAST:
            raise Skipped("no time was left")
        record = work(check)
        record["state"] = "FAILED" if record.get("problem") else "ok"
    except Skipped as reason:
        record = {"state": "skipped", "summary": str(reason)}
    except Exception as error:  # whatever it is, the other sections are still to come
        said = str(error) if isinstance(error, Failed) else repr(error)
        record = {"state": "FAILED", "problem": said}
        # What was done, and of a traceback or log below it what went wrong.
        lines = said.strip().splitlines() or ["failed"]
        record["summary"] = " … ".join(dict.fromkeys((lines[0], lines[-1].strip())))
    record["seconds"] = round(time.monotonic() - began, 1)
    click.echo(f"{name}: {record['state']}, {record['seconds']} s. {record['summary']}")
    if record.get("problem"):
        click.echo(record["problem"])
    return record


def table(results: dict[str, Record]) -> str:
    """The sections for people."""
    width = max(map(len, results))
    return "\n".join(
        f"{name:{width}}  {each['state']:8}{each['seconds']:7.1f} s  {each['summary']}"
        for name, each in results.items()
    )


def default_out(results: dict[str, Record]) -> Path:
    """experiments/results/, named after the GPU and the day."""
    about = results.get("environment", {})
    gpu = re.sub(r"\W+", "-", about.get("gpu", "unknown-gpu")).strip("-").lower()
    return RESULTS / f"{gpu}-{datetime.date.today()}.json"


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="JSON file; default: in experiments/results, none without a GPU.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Store to train on; default: the demo set.",
)
@click.option("--minutes", default=9.0, show_default=True, help="Time for all of it.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(list(SECTIONS)),
    help="Only this section; may be repeated.",
)
def main(
    out: Path | None, data: Path | None, minutes: float, only: tuple[str, ...]
) -> None:
    """Prove and measure everything on a GPU."""
    from minicnn.device import cuda_count

    data = data.resolve() if data else None
    deadline = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as place:
        check = Checkup(cuda_count() > 0, Path(place), deadline, data)
        if not check.gpu:
            click.echo("No GPU answers: the emulated device takes its place, in small.")
        for name in only or SECTIONS:
            check.results[name] = run(check, name, SECTIONS[name])
            file = out or (default_out(check.results) if check.gpu else None)
            if file:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(check.results, indent=2) + "\n")
    click.echo("\n" + table(check.results))
    if file:
        click.echo(f"Written: {file}")
    sys.exit(any(each["state"] == "FAILED" for each in check.results.values()))


if __name__ == "__main__":
    main()
