"""What this machine has, what it lacks, and the command that mends it.

Nothing here raises because a thing is missing: each check answers with a `Finding`.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from minicnn import __version__
from minicnn.training.environment import processor

OK, OPTIONAL, MISSING = "ok", "optional", "missing"
GIGA = 1e9
# The name on PyPI. `minicnn` is another project's there; its folder is MiniCNN, that is
# this one's where file names ignore case, as on macOS.
DISTRIBUTION, STRANGER = "minicnn-transfer", "minicnn"
# Stores and runs looked into; a folder may hold thousands.
LISTED = 20
TIMEOUT = 5.0  # seconds for another program to say its version


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
    """Looks at this machine and the current folder; takes about a second."""
    findings: list[Finding] = []
    for what, look in CHECKS:
        try:
            findings += look()
        except Exception as error:  # a broken library may raise anything when loaded
            reason = f"cannot be told: {type(error).__name__}: {error}"
            mend = _pip("") if isinstance(error, ImportError) else ""
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


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pip(extra: str, verb: str = "install", package: str = DISTRIBUTION) -> str:
    """The command that installs an extra into this very Python, or does `verb`."""
    python = sys.executable or "python3"
    here = os.getcwd() + os.sep
    python = python[len(here) :] if python.startswith(here) else python
    wanted = f"{package}[{extra}]" if extra else package
    return f"{shlex.quote(python)} -m pip {verb} {shlex.quote(wanted)}"


def _output(*command: str) -> str:
    """What a program prints, or "" where it is absent, fails or hangs."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


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
    mend = _pip("", "uninstall --yes", STRANGER)
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
    """The packages that are only used here and there; read without loading them."""
    for package in ("safetensors", "matplotlib", "tqdm", "click"):
        version = _version(package)
        if version:
            yield Finding(package, version)
        else:
            yield Finding(package, "not installed", MISSING, _pip(""))


def _compiler() -> Iterator[Finding]:
    for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++"):
        path = shutil.which(name) if name else None
        text = _output(path, "--version") if path else ""
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


def _cuda() -> tuple[int, list[str]] | None:
    """The driver's CUDA version (12040 is 12.4) and its GPUs; None without a driver."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        cuda = ctypes.CDLL(name)
    except OSError:
        return None
    version, count = ctypes.c_int(), ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return version.value, []
    gpus = []
    for number in range(count.value):
        label, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
        major, minor = ctypes.c_int(), ctypes.c_int()
        cuda.cuDeviceGetName(label, len(label), number)
        cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), number)
        # Attributes 75 and 76: the two parts of the compute capability.
        cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, number)
        cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, number)
        gpus.append(
            f"{label.value.decode()}, {memory.value / GIGA:.0f} GB, "
            f"sm_{major.value}{minor.value}"
        )
    return version.value, gpus


def _gpu() -> Iterator[Finding]:
    driver = _cuda()
    cards = any("10de" in each.read_text() for each in _vendors())
    if driver is None:
        mend = "sudo ubuntu-drivers install" if shutil.which("ubuntu-drivers") else ""
        if cards:
            reason = "an NVIDIA card, but no driver for it"
            yield Finding(
                "GPU", reason, MISSING, mend or "sudo apt-get install nvidia-driver"
            )
        else:
            yield Finding("GPU", "no NVIDIA card; the cpu device does all", OPTIONAL)
    else:
        version, gpus = driver
        number = _output(
            "nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"
        )
        release = number.splitlines()[0] if number else "of unknown release"
        cuda = f"{version // 1000}.{version % 1000 // 10}"
        yield Finding("driver", f"NVIDIA {release}, up to CUDA {cuda}")
        for each in gpus:
            yield Finding("GPU", each)
        if not gpus:
            reason = "a driver, but no GPU answers (hidden by CUDA_VISIBLE_DEVICES?)"
            yield Finding("GPU", reason, MISSING, "nvidia-smi")
    extra = "cuda13" if driver and driver[0] >= 13000 else "cuda12"
    yield from _cupy(extra, MISSING if driver and driver[1] else OPTIONAL)


def _vendors() -> list[Path]:
    return list(Path("/sys/bus/pci/devices").glob("*/vendor"))


def _cupy(extra: str, state: str) -> Iterator[Finding]:
    """CuPy and NVRTC, the run-time compiler that comes with it.

    Args:
        extra: what to install for this driver.
        state: of their lack: it matters only where a GPU answers.
    """
    if importlib.util.find_spec("cupy") is None:
        need = "not installed; the cuda device needs it"
        yield Finding("CuPy", need, state, _pip(extra))
        return
    what = "CuPy"
    try:
        import cupy

        yield Finding(what, cupy.__version__)
        what = "NVRTC"
        from cupy.cuda import nvrtc

        yield Finding(what, ".".join(map(str, nvrtc.getVersion())))
    except Exception as error:  # a missing library shows in many ways
        reason = " ".join(str(error).split())[:200]
        yield Finding(what, f"does not work: {reason}", state, _pip(extra))


def _device() -> Iterator[Finding]:
    from minicnn.devices import device

    dev = device.get()
    yield Finding("device", f"--device auto takes {dev.name}, {dev.threads} threads")


def _torch() -> Iterator[Finding]:
    version = _version("torch")
    if version:
        yield Finding("PyTorch", f"{version} (for comparisons only)")
    else:
        reason = "not installed; only comparisons need it"
        yield Finding("PyTorch", reason, OPTIONAL, _pip("compare"))


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
    ("GPU", _gpu),
    ("device", _device),
    ("PyTorch", _torch),
    ("stores", _stores),
    ("runs", _runs),
    ("disk", _disk),
)
