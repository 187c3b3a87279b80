"""All compiled code under AddressSanitizer and UBSan; that they see an index astray.

A finding ends its process at once, so all of it happens in child processes: one runs
every instance of every kernel over the shared cases; then one for each kernel file runs
a kernel in which one index is off by one.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from minicnn.base.precision import BF16
from minicnn.compile import emulator, native
from minicnn.compile.emulator import EmulatedLauncher
from minicnn.compile.host_compiler import compiler as host_compiler
from minicnn.compile.kernel_source import FOLDER, KernelSource
from minicnn.compile.native import NativeFile
from minicnn.devices import device
from minicnn.devices.launch import KernelFile
from minicnn.experiments.proofs import problems as cases
from minicnn.ops import (
    augment,
    dropout,
    lrn,
    pool,
    pool_lrn,
    sgd,
    softmax,
    space_to_depth,
)
from minicnn.ops.conv import conv
from minicnn.ops.conv.plan import FORWARD
from minicnn.ops.conv.shape import ConvShape
from tests.ops import (
    test_augment,
    test_conv,
    test_conv_tensor_cores,
    test_dropout,
    test_lrn,
    test_pool,
    test_pool_lrn,
    test_sgd,
    test_softmax,
    test_space_to_depth,
)
from tests.support.helpers import poisoned

# Every op, forward and backward, over the shared cases, in every type; every tile. Not
# the cases whose size is for the cpu device: their edges are those of smaller ones. On
# tensor cores, which take a minute for them, not fully connected layers in slices, but
# strided layers in slices and small fully connected ones.
CLEAN = (
    "emulated and (agree or every_tile or relu_backward or slices or matches and fully "
    "and 1x1) and not (on_any or on_caffenet or matches and fully and slices) and "
    "not (conv1 or pool1 or pool2 or norm1 or layer or chunk)"
)
CLIPPED = "3/2, last window clipped"


def sanitized(call: str) -> subprocess.CompletedProcess[str]:
    """Calls one of this file's functions under the sanitizers, threads shuffled.

    -O0: small cases run for less time than it takes to optimise their kernels.
    """
    command = ["-c", f"from tests.compile import test_sanitizers as t; t.{call}"]
    root, compiler = Path(__file__).parents[2], shlex.join([*host_compiler(), "-O0"])
    env = {"MINICNN_ORDER": "shuffled:7", "CXX": compiler}
    return emulator.sanitized(command, env, cwd=root, capture_output=True)


# --- every kernel as it is ----------------------------------------------------


def run_clean() -> None:
    """What the child process does: prints the kernels that were launched."""
    launched, launch = set(), EmulatedLauncher.launch

    def noted(self: EmulatedLauncher, kernel: Any, *rest: Any) -> None:
        launched.add((kernel.source.path.name, kernel.name))
        launch(self, kernel, *rest)

    EmulatedLauncher.launch = noted  # type: ignore[method-assign]
    folder = Path(__file__).parents[1]
    names = [*sorted(path.stem for path in FOLDER.glob("*.cu")), "conv_tensor_cores"]
    files = [str(folder / f"ops/test_{name}.py") for name in names]
    # -s: a finding ends the process at once, and with it what pytest had captured.
    status = pytest.main(["-s", "-p", "no:cacheprovider", "-k", CLEAN, *files])
    for file, name in sorted(launched):
        print(f"clean: {file}: {name}")
    sys.exit(status)


def test_every_kernel_is_clean() -> None:
    done = sanitized("run_clean()")
    assert done.returncode == 0, done.stdout + done.stderr
    expected = {
        (path.name, name)
        for path in FOLDER.glob("*.cu")
        for name in KernelSource.read(path).instances
    }
    launched = re.findall(r"^clean: (.*): (.*)$", done.stdout, re.MULTILINE)
    assert set(launched) == expected


# --- the cpu device's compiled code ---------------------------------------------


def run_native() -> None:
    """What the child process does: every op's cases, in compiled code."""
    assert not native.missing()
    folder = Path(__file__).parents[1]
    names = ("native_bits", "conv", "softmax")
    files = [str(folder / f"ops/test_{name}.py") for name in names]
    clean = "(same_bits_as_in_numpy or cpu and not cpu-numpy and agree) and not on_"
    sys.exit(pytest.main(["-s", "-p", "no:cacheprovider", "-k", clean, *files]))


def test_the_cpu_devices_code_is_clean() -> None:
    done = sanitized("run_native()")
    assert done.returncode == 0, done.stdout + done.stderr


def run_native_astray(folder: str) -> None:
    """What a child process does: pools with windows that leave the image."""
    for path in native.CPU.iterdir():
        text = path.read_text("utf-8")
        if path.name == pool.NATIVE.path.name:
            right = "std::min(top + shape.window[0], shape.h)"
            assert text.count(right) == 1
            text = text.replace(right, "top + shape.window[0]")
        Path(folder, path.name).write_text(text, "utf-8")
    pool.NATIVE = NativeFile(Path(folder, pool.NATIVE.path.name))
    test_pool.check(poisoned(device.get("cpu", 1)), np.float32, cases.POOL[CLIPPED])


def test_the_cpu_devices_code_is_seen_to_leave_an_image(tmp_path: Path) -> None:
    done = sanitized(f"run_native_astray({str(tmp_path)!r})")
    assert done.returncode == 66, done.stdout + done.stderr
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr, done.stderr
    assert re.search(r"#\d.*/pool_lrn.cpp:\d+", done.stderr), done.stderr


# --- real kernels with one index off by one -------------------------------------


# The op, whose launch code runs the kernel; the instance; its text, and what it is
# replaced by; a problem that comes to the end.
ASTRAY: dict[str, tuple[ModuleType, str, str, str, Callable[[device.Device], None]]] = {
    "the last filter's last row": (
        conv,
        "conv_forward<double, 64, 32, 1>",
        "inside = (k_left > 0)",
        "inside = (k_left >= 0)",
        lambda dev: test_conv.check(dev, np.float64, cases.CONV["odd sizes"]),
    ),
    "the last filter, on tensor cores": (
        conv,
        "conv_forward<bf16, 128, 64, 8>",
        "inside = (k_left > 0)",
        "inside = (k_left >= 0)",
        lambda dev: test_conv_tensor_cores.check(
            dev, BF16, ConvShape(1, 9, 11, 40, 72, 3, 3, pad=(1, 1)), kernels=(FORWARD,)
        ),
    ),
    "a window over the lower edge": (
        pool,
        "pool_forward<float, 1>",
        "last_r = min(shape.window[0], shape.h - top)",
        "last_r = shape.window[0]",
        lambda dev: test_pool.check(dev, np.float32, cases.POOL[CLIPPED]),
    ),
    "the last channel": (
        lrn,
        "lrn_forward<float, 1>",
        "min(i + W - 1 + half, c - 1)",
        "min(i + W - 1 + half, c)",
        lambda dev: test_lrn.check(dev, np.float32, cases.LRN["size 5"]),
    ),
    "the last column of the last window": (
        pool_lrn,
        "pool_lrn_forward<float, 1>",
        "last_s = min(shape.window[1], shape.w - left)",
        "last_s = shape.window[1]",
        lambda dev: test_pool_lrn.check(dev, np.float32, cases.POOL_LRN["rectangular"]),
    ),
    "the last tap of a filter": (
        space_to_depth,
        "block_filters<float>",
        "s < shape.s;",
        "s <= shape.s;",
        lambda dev: test_space_to_depth.check(
            dev, np.float32, cases.BLOCKS["caffenet's stride"]
        ),
    ),
    "the rest of four": (
        dropout,
        "dropout<float>",
        "if (first + e < count) y",
        "if (first + e <= count) y",
        lambda dev: test_dropout.check(
            dev, np.float32, cases.DROPOUT["not a multiple of four"]
        ),
    ),
    "the last class": (
        softmax,
        "softmax_rows<float>",
        "i < k; i += THREADS) total += exp",
        "i <= k; i += THREADS) total += exp",
        lambda dev: test_softmax.check(dev, np.float32, cases.SOFTMAX["ten classes"]),
    ),
    "the last parameter": (
        sgd,
        "sgd_update<float>",
        "i < size; i += W * grid_threads()",
        "i <= size; i += W * grid_threads()",
        lambda dev: test_sgd.check(dev, np.float32, cases.SGD["as in caffenet"]),
    ),
    "the last column": (
        augment,
        "crop_mirror<float>",
        "e < 3 * width; e += blockDim.x",
        "e <= 3 * width; e += blockDim.x",
        lambda dev: test_augment.check(dev, np.float32, cases.AUGMENT["whole image"]),
    ),
}


def astray(op: ModuleType, kernel: str, right: str, wrong: str) -> KernelFile:
    """The op's kernel file, of which only that kernel is compiled, with the mistake."""
    source = op.KERNELS.source
    assert source.text.count(right) == 1
    file = KernelFile(source.path)
    file.source = replace(
        source,
        text=source.text.replace(right, wrong),
        instances={kernel: source.instances[kernel]},
    )
    return file


def run_astray(name: str) -> None:
    """What a child process does: runs the op with the mistake in its kernel."""
    *mistake, run = ASTRAY[name]
    mistake[0].KERNELS = astray(*mistake)
    run(poisoned(device.get("emulated")))


@pytest.mark.parametrize("name", ASTRAY)
def test_an_index_astray_is_found(name: str) -> None:
    done = sanitized(f"run_astray({name!r})")
    assert done.returncode == 66, done.stdout + done.stderr
    # Far beyond the end there may lie what an earlier array has left.
    kind = "AddressSanitizer: heap-(buffer-overflow|use-after-free)"
    assert re.search(kind, done.stderr), done.stderr
    assert re.search(r"#\d.*/kernels/\w+\.cuh?:\d+", done.stderr), done.stderr
