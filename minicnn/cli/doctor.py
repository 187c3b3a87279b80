"""The command `doctor`: what this machine has, what it lacks, and what mends it.

Nothing here raises because a thing is missing: each check answers with a `Finding`.
"""

from __future__ import annotations

import glob
import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from minicnn import __version__
from minicnn.base.cores import available_cores
from minicnn.base.errors import MinicnnError
from minicnn.cli import shared
from minicnn.cli.shared import put

OK, OPTIONAL, MISSING = "ok", "optional", "missing"
# The name on PyPI. `minicnn` is another project's there; its folder is MiniCNN, that is
# this one's where file names ignore case, as on macOS.
DISTRIBUTION, STRANGER = "minicnn-transfer", "minicnn"
# Extras that one thing each needs. CuPy, of the extras cuda12 and cuda13, is looked for
# where there is a GPU.
EXTRAS = {
    "analyse": "linear probes",
    "compare": "comparisons",
    "ray": "studies on a cluster",
    "onnx": "exports to ONNX",
    "tensorboard": "event files",
}
VENDORS = "/sys/bus/pci/devices/*/vendor"
NVIDIA = "10de"
CUDA13 = 580  # first release of NVIDIA's driver that runs CUDA 13
TIMEOUT = 5.0  # seconds for another program to answer


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for.

    Attributes:
        what: its name.
        found: what was found, or what its lack means.
        state: "ok", "optional" (absent, and only some things need it) or "missing".
        mend: the one command that mends it, or "".
    """

    what: str
    found: str
    state: str = OK
    mend: str = ""


def examine() -> list[Finding]:
    """Looks at this machine; takes about a second."""
    findings: list[Finding] = []
    for look in CHECKS:
        try:
            findings += look()
        except Exception as error:  # a broken library may raise anything when loaded
            mend = _pip("") if isinstance(error, ImportError) else ""
            told = f"cannot be told: {_reason(error)}"
            findings.append(Finding(look.__name__.strip("_"), told, MISSING, mend))
    return findings


def table(findings: list[Finding]) -> str:
    """The findings for people, each mend on a line of its own."""
    width = max(len(each.what) for each in findings)
    marks = {OK: "  ", OPTIONAL: "- ", MISSING: "! "}
    lines = []
    for each in findings:
        lines.append(f"{marks[each.state]}{each.what:{width}}  {each.found}")
        if each.mend:
            lines.append(f"  {'':{width}}  > {each.mend}")
    states = [each.state for each in findings]
    lines.append(
        f"\n{states.count(MISSING)} missing (!), {states.count(OPTIONAL)} optional "
        "absent (-); '>' is the command that mends it."
    )
    return "\n".join(lines)


def _pip(extra: str, verb: str = "install", package: str = DISTRIBUTION) -> str:
    """The command that installs an extra into this very Python, or does `verb`."""
    python = (sys.executable or "python3").removeprefix(os.getcwd() + os.sep)
    wanted = f"{package}[{extra}]" if extra else package
    return f"{shlex.quote(python)} -m pip {verb} {shlex.quote(wanted)}"


def _output(*command: str) -> list[str]:
    """The lines that a program prints; none where it is absent, fails or hangs."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.strip().splitlines()


def _reason(error: Exception) -> str:
    kind = "" if isinstance(error, MinicnnError) else f"{type(error).__name__}: "
    return " ".join(f"{kind}{error}".split())[:300]


def _machine() -> Iterator[Finding]:
    from minicnn.training.environment import processor

    yield Finding("minicnn", f"{__version__} in {Path(__file__).parents[1]}")
    yield Finding("Python", f"{platform.python_version()}, {sys.executable}")
    yield Finding("system", f"{platform.platform(terse=True)}, {platform.machine()}")
    cores, everyone = available_cores(), os.cpu_count() or 1
    usable = f"{cores} cores" if cores == everyone else f"{cores} of {everyone} cores"
    yield Finding("processor", f"{processor()}, {usable}")


def _stranger() -> Iterator[Finding]:
    """The other project's package, where pip has brought it."""
    try:
        other = importlib.metadata.distribution(STRANGER)
    except importlib.metadata.PackageNotFoundError:
        return
    # This project's own, installed under its module's name, has this command.
    if any(each.value == "minicnn.cli.main:main" for each in other.entry_points):
        return
    found = (
        f"{STRANGER} {other.version} in {other.locate_file('')} is another project's; "
        f"this one is {DISTRIBUTION}"
    )
    mend = _pip("", "uninstall --yes", STRANGER)
    yield Finding("same name", found, MISSING, mend)


def _packages() -> Iterator[Finding]:
    """What all need, and what an extra brings; versions are read, nothing is loaded."""
    for wanted in importlib.metadata.requires(DISTRIBUTION) or []:
        [package] = re.findall(r"^[\w.-]+", wanted)
        extra = "".join(re.findall(r"extra == \W(\w+)", wanted))
        too_new = "python_version" in wanted and sys.version_info >= (3, 11)
        if too_new or extra not in ("", *EXTRAS):
            continue
        need = f"only {EXTRAS[extra]} need it" if extra else ""
        try:
            version = importlib.metadata.version(package)
            yield Finding(package, f"{version} ({need})" if need else version)
        except importlib.metadata.PackageNotFoundError:
            absent = f"not installed; {need}" if need else "not installed"
            state = OPTIONAL if need else MISSING
            yield Finding(package, absent, state, _pip(extra))


def _loading() -> Iterator[Finding]:
    """Whether the packages work, too."""
    import minicnn.data_prep.prepare
    import minicnn.results.pictures
    import minicnn.training.transfer  # noqa: F401

    yield Finding("loading", "all that a training needs")


def _native() -> Iterator[Finding]:
    """The compiled forms of the cpu device's ops; compiles them at the first time.

    The emulated device needs the same compiler.
    """
    from minicnn.compile import host_compiler, native

    if reason := native.missing():
        told = " ".join(reason.split())[:300]
        mend = "unset MINICNN_NATIVE" if reason == native.OFF else ""
        yield Finding("cpu ops", f"in NumPy, and slower: {told}", OPTIONAL, mend)
    else:
        program = " ".join(host_compiler.compiler())
        yield Finding("cpu ops", f"compiled by {program}")


def _gpu() -> Iterator[Finding]:
    """What GPUs there are, by their driver, and whether the cuda device works."""
    from minicnn.devices import device

    columns = "--query-gpu=driver_version,name,memory.total,compute_cap"
    cards = _output("nvidia-smi", columns, "--format=csv,noheader")
    if not cards and not device.cuda_count():
        if any(NVIDIA in Path(each).read_text() for each in glob.glob(VENDORS)):
            told = "an NVIDIA card, but its driver does not answer"
            mend = "sudo apt-get install nvidia-driver"
            if shutil.which("ubuntu-drivers"):
                mend = "sudo ubuntu-drivers install"
            yield Finding("GPU", told, MISSING, mend)
        else:
            yield Finding("GPU", "no NVIDIA card; the cpu device does all", OPTIONAL)
        return
    for card in cards:
        yield Finding("GPU", f"driver {card}")
    try:
        import cupy

        cupy.cuda.runtime.getDeviceCount()  # says why, where no GPU answers
        name = device.get("cuda").name
        yield Finding("cuda", f"works: --device {name}, by CuPy {cupy.__version__}")
    except Exception as error:  # a missing library shows in many ways
        new = cards and int(cards[0].partition(".")[0]) >= CUDA13
        loaded = sys.modules.get("cupy")
        mend = "" if loaded else _pip("cuda13" if new else "cuda12")
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        also = "" if hidden is None else f"; CUDA_VISIBLE_DEVICES is {hidden!r}"
        told = f"does not work: {_reason(error)}{also}"
        yield Finding("cuda", told, MISSING, mend)


def _device() -> Iterator[Finding]:
    from minicnn.devices import device
    from minicnn.training import environment

    dev = device.get()
    yield Finding("BLAS", environment.describe(dev)["blas"])
    yield Finding("device", f"--device auto takes {dev.name}, {dev.threads} threads")


def _cache() -> Iterator[Finding]:
    from minicnn.base.files import cache_folder, make_folder

    make_folder(cache_folder())
    yield Finding("cache", f"{cache_folder()}: compiled code, the demo set")


CHECKS: tuple[Callable[[], Iterator[Finding]], ...]
CHECKS = _machine, _stranger, _packages, _loading, _native, _gpu, _device, _cache


@click.command()
@shared.json_option
def doctor() -> None:
    """Say what this machine has and lacks, and what mends it."""
    findings = examine()
    put([vars(each) for each in findings], table(findings))


COMMANDS = [doctor]
