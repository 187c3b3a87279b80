"""The sections of `gpu_check.py`: what is proven and measured, and within what time."""

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
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TAIL = 25  # lines of a failed process that are shown
PROVE, MEASURE = PARTS = ("prove", "measure")
NETS = ("caffenet", "caffenet64")
PRECISIONS = ("bf16", "tf32", "fp32")
# Of PyTorch's compiled modes one a precision, by `torch_step`'s names.
COMPILED = tuple(f"{each} channels_last compiled graph" for each in PRECISIONS)
ROUNDS = 5  # turns of minicnn and of PyTorch
# What bench_torch.py ends with, and what the last line on whose turn it is says, where
# PyTorch failed. Not imported: that would need packages that only children have.
TORCH_FAILED, THEIRS = 3, "PyTorch"
Record = dict[str, Any]


class Failed(Exception):
    """A section did not do what it should; the text says what.

    Args:
        said: all that a process printed before it failed.
        status: its exit status; None where it took too long.
    """

    def __init__(self, text: str, said: str = "", status: int | None = None) -> None:
        super().__init__(text)
        self.said, self.status = said, status


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
        reserved: seconds before the deadline that later sections need.
    """

    gpu: bool
    folder: Path
    deadline: float
    data: Path | None = None
    results: dict[str, Record] = field(default_factory=dict)
    reserved: float = 0.0

    @property
    def device(self) -> str:
        """The device that is checked."""
        return "cuda" if self.gpu else "emulated"

    def left(self) -> float:
        """Seconds that are left to the section that runs."""
        return self.deadline - self.reserved - time.monotonic()

    def child(self, *arguments: str) -> tuple[int, str]:
        """Runs Python on these arguments, for as long as is left.

        Returns:
            Exit status, and what it printed on both streams.

        Raises:
            Failed: it took too long; it and all that it started are ended.
        """
        limit = max(self.left(), 0.0)
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
            text = f"took over {limit:.0f} s\n{tail(said)}"
            raise Failed(text, said) from None
        return process.returncode, said

    def measured(self, *arguments: str) -> Record:
        """Runs Python on these arguments and --json; the record that it writes.

        What went wrong after it was written is its "problem".

        Raises:
            Failed: it took too long, failed, or wrote none.
        """
        file = self.folder / f"{time.monotonic_ns()}.json"
        problem = None
        try:
            status, said = self.child(*arguments, "--json", str(file))
            if status:
                text = f"ended with status {status}\n{tail(said)}"
                problem = Failed(text, said, status)
        except Failed as failure:
            problem = failure
        if not file.exists():
            raise problem or Failed("wrote no result")
        record = json.loads(file.read_text())
        return {**record, "problem": str(problem)} if problem else record


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
    status, said = check.child("-c", code)
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
        status, said = check.child(*command, f"--device={check.device}")
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
    status, said = check.child(*pytest, "-p", "no:cacheprovider")
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
    status, said = check.child(*command)
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


def where(check: Checkup, net: str) -> tuple[str, ...]:
    """Options for a benchmark of a net: on the GPU, or small on the CPU."""
    device, batch = (check.device, 256) if check.gpu else ("cpu", 16)
    return f"--arch={net}", f"--batch={batch}", f"--device={device}"


def benchmark(check: Checkup, net: str, precision: str) -> Record:
    """`minicnn bench`."""
    if not check.gpu and precision != "fp32":
        raise Skipped("no GPU")
    command = "-m", "minicnn", "bench", *where(check, net)
    record = check.measured(*command, f"--precision={precision}")
    rate = record["images_per_second"]
    record["summary"] = f"{record['step'] * 1e3:.2f} ms a step, {rate:,.0f} images/s"
    return record


def beside_torch(check: Checkup, net: str, modes: str) -> Record:
    """`bench_torch.py` in some of PyTorch's modes.

    That PyTorch fails is a pity, but no failure of ours; whatever else fails is.
    """
    if importlib.util.find_spec("torch") is None:
        raise Skipped("no PyTorch to compare with")
    if not check.gpu and modes != "eager":
        raise Skipped("no GPU")
    script = str(ROOT / "experiments" / "bench_torch.py")
    few = f"--modes={modes}", f"--rounds={ROUNDS}"
    try:
        record = check.measured(script, *where(check, net), *few)
    except Failed as failure:
        if not torchs(failure):
            raise
        raise Skipped(f"PyTorch failed: {failure}") from None
    del record["provenance"]  # it is this program's
    (found,) = record["nets"]
    record["summary"] = "; ".join(
        f"PyTorch {each['name']} {each['median'] * 1e3:.2f} ms, "
        f"{each['ratio']:.2f} × minicnn's in turns"
        for each in found["theirs"]
        if each["name"] in found["best"].values()
    )
    return record


def torchs(failure: Failed) -> bool:
    """Whether a failure of `bench_torch.py` is PyTorch's.

    Of one that hung, or that a signal ended, whose turn it was decides.
    """
    if failure.status is None or failure.status < 0:
        turns = re.findall(r"^turn of (\w+)$", failure.said, re.MULTILINE)
        return turns[-1:] == [THEIRS]
    return failure.status == TORCH_FAILED


def comparing(check: Checkup) -> Record:
    """Demo trainings in reduced precision beside float32, over seeds."""
    if not check.gpu:
        raise Skipped("no GPU; 'experiments/compare_precisions.py' simulates it")
    script = str(ROOT / "experiments" / "compare_precisions.py")
    options = f"--device={check.device}", "--seeds=3", "--precision=tf32"
    record = check.measured(script, *options, "--precision=bf16")
    record["summary"] = "; ".join(
        f"{row['precision']} {row['score']} {row['difference']:+.4f} "
        f"[{row['low']:+.4f}, {row['high']:+.4f}] {row['verdict']}"
        for row in record["comparison"]
    )
    return record


def emulating(check: Checkup) -> Record:
    """`minicnn bench` on the emulated device, where no GPU is."""
    if check.gpu:
        raise Skipped("a GPU is here")
    options = "--arch=caffenet32", "--batch=1", "--device=emulated"
    record = check.measured("-m", "minicnn", "bench", *options)
    record["summary"] = f"caffenet32, batch 1: {record['step'] * 1e3:.0f} ms a step"
    return record


def training(check: Checkup) -> Record:
    """A short real training: like the CPU's, the same bits again and resumed."""
    store = check.data or check.folder / "demo.h5"
    if check.data is None:
        draw = "-m", "minicnn", "data", "demo", "-o", str(store)
        status, said = check.child(*draw)
        if status:
            raise Failed(tail(said))
    script = str(ROOT / "experiments" / "compare_devices.py")
    options = [f"--device={check.device}", f"--data={store}"]
    if not check.gpu:
        options += ["--iterations=8", "--compared=8", "--batch=8", "--classes=2"]
    record = check.measured(script, *options)
    record["summary"] = (
        f"{record['iterations']} updates in {record['seconds']} s, top-1 "
        f"{record['top1']:.1%}; first {len(record['cpu_losses'])} losses within "
        f"{record['largest_difference']:.1e} of the CPU's; same bits again: "
        f"{record['same_bits_again']}, resumed: {record['same_bits_resumed']}"
    )
    return record


@dataclass(frozen=True)
class Section:
    """One thing to do.

    Attributes:
        work: does it; returns its record.
        budget: seconds of a command's nine minutes that are kept for it.
        part: in which of PARTS; "" in both.
    """

    work: Callable[[Checkup], Record]
    budget: float
    part: str = ""


def _measuring() -> dict[str, Section]:
    """The sections of the part "measure": each one process, and one JSON record."""

    def bench(net: str, precision: str) -> Section:
        return Section(lambda check: benchmark(check, net, precision), 25, MEASURE)

    def torch(net: str, modes: str, budget: float) -> Section:
        return Section(lambda check: beside_torch(check, net, modes), budget, MEASURE)

    pairs = [(net, kind) for net in NETS for kind in PRECISIONS]
    return {
        **{f"bench {net} {kind}": bench(net, kind) for net, kind in pairs},
        **{f"torch {net}": torch(net, "eager", 65) for net in NETS},
        # Compiling is slow, and may hang.
        **{f"torch {mode}": torch(NETS[0], mode, 75) for mode in COMPILED},
        "bench emulated": Section(emulating, 5, MEASURE),
    }


SECTIONS: dict[str, Section] = {
    "environment": Section(about, 20),
    "compile": Section(compiling, 170, PROVE),
    "gradcheck": Section(gradients, 60, PROVE),
    "tests": Section(testing, 150, PROVE),
    "training": Section(training, 60, PROVE),
    "precisions": Section(comparing, 80, PROVE),
    **_measuring(),
}
