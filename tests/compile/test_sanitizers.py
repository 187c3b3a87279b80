"""All compiled code under AddressSanitizer and UBSan; that they see an index astray.

A finding ends its process at once, so all of it happens in child processes: one runs
every instance of every kernel over the shared cases; then one for each kernel file runs
a kernel in which one index is off by one.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

from minicnn.compile import emulator, native
from minicnn.compile.emulator import EmulatedLauncher
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
from tests.ops import (
    test_augment,
    test_conv,
    test_conv_mistakes,
    test_dropout,
    test_lrn,
    test_pool,
    test_pool_lrn,
    test_sgd,
    test_softmax,
    test_space_to_depth,
)
from tests.support.helpers import poisoned, rounded

# Every op, forward and backward, over the shared cases, in every type; every tile.
CLEAN = (
    "emulated and (agree or every_tile or relu_backward or slices) "
    "and not on_any and not on_caffenet"
)


def sanitized(call: str) -> subprocess.CompletedProcess[str]:
    """Calls one of this file's functions under the sanitizers, threads shuffled."""
    command = ["-c", f"from tests.compile import test_sanitizers as t; t.{call}"]
    root, env = Path(__file__).parents[2], {"MINICNN_ORDER": "shuffled:7"}
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
    oracles = sorted((folder / "support/reference").glob("[!_]*.py"))
    names = [path.stem for path in oracles] + ["conv_tensor_cores"]
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
    run_pool(poisoned(device.get("cpu", 1)))


def test_the_cpu_devices_code_is_seen_to_leave_an_image(tmp_path: Path) -> None:
    done = sanitized(f"run_native_astray({str(tmp_path)!r})")
    assert done.returncode == 66, done.stdout + done.stderr
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr, done.stderr
    assert re.search(r"#\d.*/pool_lrn.cpp:\d+", done.stderr), done.stderr


# --- real kernels with one index off by one -------------------------------------


class Astray(NamedTuple):
    """A kernel that reads or writes past an end.

    Attributes:
        op: whose launch code runs it.
        kernel: the instance.
        right, wrong: its text, and what it is replaced by.
        run: runs the op on a problem that comes to the end.
    """

    op: ModuleType
    kernel: str
    right: str
    wrong: str
    run: Callable[[device.Device], object]


def run_conv(dev: device.Device) -> None:
    shape = cases.CONV["odd sizes"]
    test_conv.check(dev, np.float64, shape, test_conv.inputs(shape))


def run_pool(dev: device.Device) -> None:
    shape = cases.POOL["3/2, last window clipped"]
    test_pool.check(dev, np.float32, shape, test_pool.inputs(shape))


def run_lrn_backward(dev: device.Device) -> None:
    case = cases.LRN_WIDE["wider than a block"]
    given = rounded(test_lrn.inputs(case), np.float32)
    x, dy = (dev.from_host(given[name]) for name in ("x", "dy"))
    dx, scale = dev.empty(x.shape, x.dtype), dev.from_host(np.ones_like(x))
    how = lrn.Normalising(case.size, case.alpha, case.beta, case.k)
    lrn.backward(dev, x, x, scale, dy, dx, how)


def run_pool_lrn_backward(dev: device.Device) -> None:
    case = cases.POOL_LRN["3/2, fits"]
    given = rounded(test_pool_lrn.inputs(case), np.float32)
    x, dy = (dev.from_host(given[name]) for name in ("x", "dy"))
    dx, argmax = dev.empty(x.shape, x.dtype), dev.zeros(dy.shape, np.uint8)
    how = case.pool, lrn.Normalising(5, 0.5, 0.75, 1.0)
    pool_lrn.backward(dev, dy, dy, argmax, dx, *how)


def run_filters(dev: device.Device) -> None:
    shape = cases.BLOCKS["caffenet's stride"]
    w = rounded(test_space_to_depth.inputs(shape), np.float32)["w"]
    test_space_to_depth.run_filters(dev, dev.from_host(w), shape)


def run_softmax(dev: device.Device) -> None:
    case = cases.SOFTMAX["ten classes"]
    test_softmax.check(dev, np.float32, case, test_softmax.inputs(case))


ASTRAY = {
    "the last filter's last row": Astray(
        conv,
        "conv_forward<double, 64, 32, 1>",
        "inside = (k_left > 0)",
        "inside = (k_left >= 0)",
        run_conv,
    ),
    "the last filter, on tensor cores": Astray(
        conv,
        "conv_forward<bf16, 128, 64, 8>",
        "inside = (k_left > 0)",
        "inside = (k_left >= 0)",
        test_conv_mistakes.run_forward,
    ),
    "a window over the lower edge": Astray(
        pool,
        "pool_forward<float, 1>",
        "last_r = min(shape.window[0], shape.h - top)",
        "last_r = shape.window[0]",
        run_pool,
    ),
    "the last channel, in shared memory": Astray(
        lrn,
        "lrn_backward<float, 1>",
        "min(i + W - 1 + half, c - 1)",
        "min(i + W - 1 + half, c)",
        run_lrn_backward,
    ),
    "the last column of the last tile": Astray(
        pool_lrn,
        "pool_lrn_backward<float, 1>",
        "shape.pad[1], 0) : shape.w",
        "shape.pad[1], 0) : shape.w + 1",
        run_pool_lrn_backward,
    ),
    "the last tap of a filter": Astray(
        space_to_depth,
        "block_filters<float>",
        "s < shape.s;",
        "s <= shape.s;",
        run_filters,
    ),
    "the rest of four": Astray(
        dropout,
        "dropout<float>",
        "if (first + e < count) y",
        "if (first + e <= count) y",
        lambda dev: test_dropout.check(
            dev, np.float32, cases.DROPOUT["not a multiple of four"]
        ),
    ),
    "the last class": Astray(
        softmax,
        "softmax_rows<float>",
        "i < k; i += THREADS) total += exp",
        "i <= k; i += THREADS) total += exp",
        run_softmax,
    ),
    "the last parameter": Astray(
        sgd,
        "sgd_update<float>",
        "i < size; i += W * grid_threads()",
        "i <= size; i += W * grid_threads()",
        lambda dev: test_sgd.check(dev, np.float32, cases.SGD["as in caffenet"]),
    ),
    "the last column": Astray(
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
    heap = "heap-(buffer-overflow|use-after-free)"
    kind = "use-after-poison" if "shared" in name else heap
    assert re.search(f"AddressSanitizer: {kind}", done.stderr), done.stderr
    assert re.search(r"#\d.*/kernels/\w+\.cuh?:\d+", done.stderr), done.stderr
