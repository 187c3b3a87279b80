"""The sections of `gpu_check.py`: what is proven and measured, and within what time."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import importlib.util
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from minicnn.experiments import ncu
from minicnn.experiments.bench import torch_step
from minicnn.experiments.checkup import ROOT, Checkup, Failed, Record, Skipped, tail

NETS = ("caffenet", "caffenet64")
BATCH = 256
PRECISIONS = ("bf16", "tf32", "tf32x3", "fp32")
COMPILED = [mode.name for mode in torch_step.modes(True) if mode.compiled]
ROUNDS, LEAST_ROUNDS = 5, 3  # turns of minicnn and of PyTorch, and how many count
# What bench_torch.py ends with, and what the last line on whose turn it is says, where
# PyTorch failed. Not imported: that would need packages that only children have.
TORCH_FAILED, THEIRS = 3, "PyTorch"
TESTS = ("-m", "gpu", "--continue-on-collection-errors")
FUZZ_EXAMPLES = "30"  # of each property; the emulator meets ten times as many
GRACE = 20.0  # seconds for pytest to end its workers and write what it has
TRAININGS = 3  # at a time: small ones, that keep Python busier than a GPU
SLOWEST = 10  # tests whose seconds are kept


def about(check: Checkup) -> Record:
    """Where and when: device, versions, commit."""
    code = (
        "import json; from minicnn.devices import device; "
        "from minicnn.training import environment; "
        f"print(json.dumps(environment.describe(device.get({check.device!r}))))"
    )
    status, said = check.child("-c", code)
    if status:
        raise Failed(tail(said))
    record = _json(said, "{")
    from minicnn.training.environment import commit

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


def _json(said: str, start: str) -> Any:
    """The JSON in what a process printed, whatever warnings stand around it.

    Args:
        start: what a line begins with where it begins.
    """
    for place in re.finditer("^" + re.escape(start), said, re.MULTILINE):
        with contextlib.suppress(ValueError):  # a warning may begin so, too
            return json.JSONDecoder().raw_decode(said[place.start() :])[0]
    raise Failed(f"printed no result\n{tail(said)}")


def compiling(check: Checkup) -> Record:
    """Compiles every kernel; and again, which must find them in the cache."""
    runs: list[Record] = []
    problem = ""
    for _ in range(2):
        try:
            runs.append(compiled(check))
        except Failed as failure:
            if not runs:
                raise
            problem = f"the second time: {failure}"
    kernels = sum(each["kernels"] for each in runs[0]["files"])
    record: Record = {
        "files": runs[0]["files"],
        **{key: [run[key] for run in runs] for key in ("taken", "cached", "groups")},
        "summary": f"{kernels} kernels of {len(runs[0]['files'])} files; "
        + ", then ".join(
            f"{run['taken']} s ({run['cached']} of {run['groups']} groups cached)"
            for run in runs
        ),
    }
    return {**record, "problem": problem} if problem else record


def compiled(check: Checkup) -> Record:
    """One run of `minicnn doctor --compile`, and how much of it the cache had."""
    began = time.monotonic()
    command = "-m", "minicnn", "doctor", "--compile", "--json"
    status, said = check.child(*command, f"--device={check.device}")
    seconds = round(time.monotonic() - began, 1)
    if status:
        raise Failed(tail(said))
    files = _json(said, "[")
    sums = {key: sum(each[key] for each in files) for key in ("groups", "cached")}
    return {"files": files, "taken": seconds, **sums}


def testing(check: Checkup) -> Record:
    """Every test marked `gpu`; where time ends, those that were run by then."""
    if not check.gpu:
        raise Skipped("no GPU; 'make test' runs the same tests on the emulated device")
    listing = check.folder / "tests.xml"
    several = ["-n", "auto"] if importlib.util.find_spec("xdist") else []
    place = f"--basetemp={check.folder / 'pytest'}", f"--junitxml={listing}"
    options = "-vv", "-p", "no:cacheprovider", *place, *several
    fuzz = {"MINICNN_FUZZ_EXAMPLES": FUZZ_EXAMPLES, **os.environ}
    problem = ""
    try:
        command = "-m", "pytest", *TESTS, *options
        status, said = check.child(*command, env=fuzz, grace=GRACE)
        problem = tail(said) if status else ""
    except Failed as failure:
        problem = str(failure)
    if not listing.exists():
        raise Failed(problem or "pytest wrote no result")
    record = ran(listing)
    return {**record, "problem": problem} if problem else record


def ran(listing: Path) -> Record:
    """What became of the tests in a JUnit file: counts, failures, and the slowest."""
    (suite,) = ElementTree.parse(listing).iter("testsuite")
    failed, times = {}, []
    for case in suite.iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        times.append((float(case.get("time", 0)), name))
        for each in case:
            if each.tag in ("failure", "error"):
                failed[name] = each.get("message", "")
    # Its own counts: of the cases one may have been interrupted.
    words = "tests", "failures", "errors", "skipped"
    every, wrong, broken, skipped = (int(suite.get(word, 0)) for word in words)
    bad = wrong + broken
    counts = {"passed": every - bad - skipped, "failed": bad, "skipped": skipped}
    return {
        "counts": counts,
        "failed": failed,
        "slowest": sorted(times, reverse=True)[:SLOWEST],
        "summary": ", ".join(f"{count} {word}" for word, count in counts.items()),
    }


def gradients(check: Checkup) -> Record:
    """`minicnn gradcheck`."""
    command = "-m", "minicnn", "gradcheck", "--device", check.device, "--json"
    status, said = check.child(*command)
    if status not in (0, 1) or '"checks"' not in said:
        raise Failed(tail(said))
    record = _json(said, "{")
    checks = record["checks"]
    bad = [f"{c['op']}, {c['case']}, {c['dtype']}" for c in checks if not c["ok"]]
    share = max(c["error"] / c["limit"] if c["limit"] else c["error"] for c in checks)
    record["summary"] = (
        f"{len(checks)} checks; the worst fills {share:.0%} of its limit"
    )
    return {**record, "problem": "\n".join(bad)} if bad else record


def where(check: Checkup, net: str) -> tuple[str, ...]:
    """Options for a benchmark of a net: on the GPU, or small on the CPU."""
    device, batch = (check.device, BATCH) if check.gpu else ("cpu", 16)
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
        record, failure = check.tried(script, *where(check, net), *few)
        (found,) = record["nets"]
        rounds = len(found["theirs"][0]["seconds"]) if found["theirs"] else 0
        failed = [each["error"] for each in found["tried"] if each["error"]]
        # Modes that PyTorch cannot run are known to be no faster.
        if failure and rounds < LEAST_ROUNDS and not failed:
            raise failure
    except Failed as early:
        if not torchs(early):
            raise
        raise Skipped(torch_ended(early)) from None
    del record["provenance"]  # it is this program's
    said = [
        f"PyTorch {each['name']} {each['median'] * 1e3:.2f} ms: "
        + ", ".join(
            f"{ratio:.2f} × minicnn's in {kind}"
            for kind, ratio in each["ratios"].items()
        )
        for each in found["theirs"]
        if each["name"] in found["best"].values()
    ]
    said += failed
    if rounds < ROUNDS:
        said.append(f"{rounds} rounds")
    if failure and torchs(failure):
        said.append(torch_ended(failure).splitlines()[0])
    elif failure:
        record["problem"] = str(failure)
    record["summary"] = "; ".join(said)
    return record


def torch_ended(failure: Failed) -> str:
    """What is said where PyTorch's turn was the last."""
    what = (
        "time ended in PyTorch's turn" if failure.status is None else "PyTorch failed"
    )
    return f"{what}: {failure}"


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
        raise Skipped("no GPU; 'experiments/bench/compare_precisions.py' simulates it")
    script = str(ROOT / "experiments" / "compare_precisions.py")
    options = f"--device={check.device}", "--seeds=3", f"--jobs={TRAININGS}"
    names = "--precision=tf32", "--precision=bf16"
    record = check.measured(script, f"--data={demo(check)}", *options, *names)
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


def demo(check: Checkup) -> Path:
    """The demo set, drawn by the first section that needs it."""
    store = check.folder / "demo.h5"
    if not store.exists():
        draw = "-m", "minicnn", "data", "demo", "-o", str(store)
        status, said = check.child(*draw)
        if status:
            raise Failed(tail(said))
    return store


def training(check: Checkup) -> Record:
    """A short real training: like the CPU's, the same bits again and resumed."""
    store = check.data or demo(check)
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


def profiling(check: Checkup) -> Record:
    """Every kernel of a step under Nsight Compute."""
    if not check.gpu:
        raise Skipped("no GPU")
    kernels = ncu.profile(check, NETS[0], BATCH, PRECISIONS[0])
    total = sum(each["seconds"] for each in kernels)
    longest = max(kernels, key=lambda each: each["seconds"])
    return {
        "kernels": kernels,
        "summary": f"{len(kernels)} kernels, {total * 1e3:.2f} ms, most of it "
        f"{longest['name']}: {longest['seconds'] * 1e6:.0f} µs",
    }


def tiling(check: Checkup) -> Record:
    """`tiles.py`: what the plans' choices cost."""
    if not check.gpu:
        raise Skipped("no GPU")
    script = str(ROOT / "experiments" / "tiles.py")
    record = check.measured(script, f"--device={check.device}", f"--batch={BATCH}")
    lost = (f"{key} {each * 1e6:.0f} µs" for key, each in record["lost"].items())
    record["summary"] = f"the plans lose a step: {', '.join(lost)}"
    return record


@dataclass(frozen=True)
class Section:
    """One thing to do.

    Attributes:
        work: does it; returns its record.
        budget: seconds that it may take, where others want the rest.
    """

    work: Callable[[Checkup], Record]
    budget: float


def _bench(net: str) -> dict[str, Section]:
    def section(precision: str) -> Section:
        return Section(lambda check: benchmark(check, net, precision), 25)

    return {f"bench {net} {kind}": section(kind) for kind in PRECISIONS}


def _torch(net: str, modes: str, budget: float) -> Section:
    return Section(lambda check: beside_torch(check, net, modes), budget)


# What matters most comes first: time may end before the last. Compiling is slow in
# PyTorch, and may hang: each of its compiled modes is a section.
_FIRST, *_OTHERS = COMPILED
SECTIONS: dict[str, Section] = {
    "environment": Section(about, 20),
    "compile": Section(compiling, 60),
    "gradcheck": Section(gradients, 60),
    **_bench(NETS[0]),
    f"torch {NETS[0]}": _torch(NETS[0], "eager", 100),
    f"torch {_FIRST}": _torch(NETS[0], _FIRST, 75),
    "tests": Section(testing, 200),
    **{f"torch {mode}": _torch(NETS[0], mode, 75) for mode in _OTHERS},
    "training": Section(training, 60),
    "profile": Section(profiling, 90),
    "tiles": Section(tiling, 60),
    "precisions": Section(comparing, 140),
    **_bench(NETS[1]),
    f"torch {NETS[1]}": _torch(NETS[1], "eager", 100),
    "bench emulated": Section(emulating, 5),
}
