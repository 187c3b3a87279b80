"""What this machine has, what it lacks, and the command that mends it.

Nothing here raises because a thing is missing: each check answers with a `Finding`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from minicnn import __version__
from minicnn.cli import doctor_gpu
from minicnn.cli.finding import (
    DISTRIBUTION,
    GIGA,
    MISSING,
    OK,
    OPTIONAL,
    STRANGER,
    Finding,
    installed,
    output,
    pip,
)
from minicnn.training.environment import processor

# Packages without a check of their own: of all, and of whom installs an extra.
PACKAGES = (
    *("jinja2", "click", "tqdm", "ml-dtypes", "safetensors", "matplotlib"),
    *("threadpoolctl", "filelock", "platformdirs"),
)
EXTRAS = {
    "PyTorch": ("torch", "compare", "comparisons"),
    "scikit-learn": ("scikit-learn", "analyse", "linear probes"),
    "Ray": ("ray", "ray", "studies on a cluster"),
    "ONNX": ("onnx", "onnx", "exports to ONNX"),
    "TensorBoard": ("tensorboard", "tensorboard", "event files"),
}
# Stores and runs looked into; a folder may hold thousands.
LISTED = 20


def examine() -> list[Finding]:
    """Looks at this machine and the current folder; takes about a second."""
    findings: list[Finding] = []
    for what, look in CHECKS:
        try:
            findings += look()
        except Exception as error:  # a broken library may raise anything when loaded
            reason = f"cannot be told: {type(error).__name__}: {error}"
            mend = pip("") if isinstance(error, ImportError) else ""
            findings.append(Finding(what, " ".join(reason.split()), MISSING, mend))
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
    lacking = sum(each.state == MISSING for each in findings)
    optional = sum(each.state == OPTIONAL for each in findings)
    lines.append("")
    lines.append(
        f"{lacking} missing (!), {optional} optional absent (-); '>' is the command "
        "that mends it."
    )
    return "\n".join(lines)


def _machine() -> Iterator[Finding]:
    yield Finding("minicnn", f"{__version__} in {Path(__file__).parents[1]}")
    yield Finding("Python", f"{platform.python_version()}, {sys.executable}")
    yield Finding("system", f"{platform.platform(terse=True)}, {platform.machine()}")
    from minicnn.base.cores import available_cores

    cores, everyone = available_cores(), os.cpu_count() or 1
    usable = f"{cores} cores" if cores == everyone else f"{cores} of {everyone} cores"
    yield Finding("processor", f"{processor()}, {usable}")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Finding("memory", f"{total / GIGA:.1f} GB")


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
    mend = pip("", "uninstall --yes", STRANGER)
    yield Finding("same name", found, MISSING, mend)


def _numpy() -> Iterator[Finding]:
    import numpy
    from threadpoolctl import threadpool_info

    yield Finding("NumPy", numpy.__version__)
    blas = [each for each in threadpool_info() if each["user_api"] == "blas"]
    for each in blas:
        name, version = each["internal_api"], each.get("version") or "unknown version"
        cores = each.get("architecture")
        kernels = f" ({cores} kernels)" if cores else ""
        yield Finding(
            "BLAS", f"{name} {version}{kernels}, {each['num_threads']} threads"
        )
    if not blas:
        yield Finding("BLAS", "of an unknown kind; its threads cannot be set", OPTIONAL)


def _hdf5() -> Iterator[Finding]:
    import h5py

    yield Finding("h5py", f"{h5py.__version__}, HDF5 {h5py.version.hdf5_version}")


def _pillow() -> Iterator[Finding]:
    from PIL import __version__ as version
    from PIL import features

    turbo = features.version("libjpeg_turbo")
    jpeg = f"libjpeg-turbo {turbo}" if turbo else "plain libjpeg (slower)"
    yield Finding("Pillow", f"{version}, {jpeg}")


def _packages() -> Iterator[Finding]:
    """The other packages that all need; read without loading them."""
    for package in PACKAGES if sys.version_info >= (3, 11) else (*PACKAGES, "tomli"):
        version = installed(package)
        if version:
            yield Finding(package, version)
        else:
            yield Finding(package, "not installed", MISSING, pip(""))


def _compiler() -> Iterator[Finding]:
    for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++"):
        path = shutil.which(name) if name else None
        text = output(path, "--version") if path else ""
        if text:
            yield Finding("C++ compiler", f"{text.splitlines()[0]}, {path}")
            return
    installers = {
        "apt-get": "sudo apt-get install g++",
        "dnf": "sudo dnf install gcc-c++",
        "zypper": "sudo zypper install gcc-c++",
        "pacman": "sudo pacman -S gcc",
        "apk": "sudo apk add g++",
        "xcode-select": "xcode-select --install",
        "conda": "conda install cxx-compiler",
    }
    mend = next((text for tool, text in installers.items() if shutil.which(tool)), "")
    reason = "none; the emulated device needs one, the cpu device is slower without"
    yield Finding("C++ compiler", reason, OPTIONAL, mend)


def _native() -> Iterator[Finding]:
    """The compiled forms of the cpu device's ops; compiles them at the first time."""
    from minicnn.compile import native

    what, without = "cpu ops", "in NumPy, and slower"
    if not (reason := native.missing()):
        yield Finding(what, "compiled")
    elif reason == native.OFF:
        yield Finding(what, f"{without}: {reason}", OPTIONAL, "unset MINICNN_NATIVE")
    else:
        reason = " ".join(reason.split())[:200]
        yield Finding(what, f"{without}: {reason}", OPTIONAL)


def _device() -> Iterator[Finding]:
    from minicnn.devices import device

    dev = device.get()
    yield Finding("device", f"--device auto takes {dev.name}, {dev.threads} threads")


def _extras() -> Iterator[Finding]:
    """Packages that one thing each needs."""
    for what, (package, extra, user) in EXTRAS.items():
        version = installed(package)
        if version:
            yield Finding(what, f"{version} (for {user} only)")
        else:
            reason = f"not installed; only {user} need it"
            yield Finding(what, reason, OPTIONAL, pip(extra))


def _stores() -> Iterator[Finding]:
    from minicnn.data_prep.demo.store import default_demo_path

    demo = default_demo_path()
    if demo.is_file():
        yield _store("demo set", demo, "minicnn data demo")
    else:
        reason = f"not drawn yet (first use draws it in {demo.parent})"
        yield Finding(
            "demo set",
            reason,
            OPTIONAL,
            f"minicnn data demo -o {shlex.quote(str(demo))}",
        )
    paths = sorted([*Path().glob("*.h5"), *Path().glob("*/*.h5")])
    for path in paths[:LISTED]:
        yield _store("store", path, "minicnn data prepare SOURCE")
    if not paths:
        mend = "minicnn data prepare SOURCE -o STORE.h5"
        reason = "none in this folder; the demo set serves without"
        yield Finding("stores", reason, OPTIONAL, mend)
    elif len(paths) > LISTED:
        yield Finding("stores", f"and {len(paths) - LISTED} more in this folder")


def _store(what: str, path: Path, maker: str) -> Finding:
    """A store and what is in it; where it is damaged, the command that replaces it."""
    from minicnn.base.errors import MinicnnError
    from minicnn.data.store import Store

    try:
        store = Store(path)
    except MinicnnError as error:
        reason = str(error).removeprefix("store ")
        mend = f"{maker} -o {shlex.quote(str(path))} --fresh"
        # Another program's HDF5 file is not damaged, and not ours to replace.
        if "no minicnn store" in reason:
            return Finding(what, reason, OPTIONAL)
        return Finding(what, reason, MISSING, mend)
    height, width = store.image_size
    return Finding(
        what,
        f"{path}: {len(store):,} images of {height}x{width}, "
        f"{len(store.wnids)} classes",
    )


def _runs() -> Iterator[Finding]:
    found = sorted(Path("runs").glob("**/config.toml"))
    done = [each for each in found if each.with_name("result.json").exists()]
    if found:
        text = f"{len(done)} finished, {len(found) - len(done)} unfinished in ./runs"
        yield Finding("runs", text)
    else:
        mend = "minicnn train-base --task A"
        yield Finding("runs", "none in ./runs", OPTIONAL, mend)


def _disk() -> Iterator[Finding]:
    usage = shutil.disk_usage(".")
    text = f"{usage.free / GIGA:,.1f} of {usage.total / GIGA:,.1f} GB free here"
    yield Finding("disk", text)


CHECKS: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
    ("machine", _machine),
    ("same name", _stranger),
    ("NumPy", _numpy),
    ("h5py", _hdf5),
    ("Pillow", _pillow),
    ("packages", _packages),
    ("C++ compiler", _compiler),
    ("cpu ops", _native),
    ("GPU", doctor_gpu.look),
    ("device", _device),
    ("extras", _extras),
    ("stores", _stores),
    ("runs", _runs),
    ("disk", _disk),
)
