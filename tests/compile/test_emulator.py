"""The emulator finds what a GPU would hide: every planted mistake shows."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minicnn.base.errors import MinicnnError
from minicnn.compile import emulator
from minicnn.compile.emulator import EmulatedLauncher, poisoned
from minicnn.devices.launch import KernelFile
from tests.support.emulated import F32, F64, PLANTED, in_every_order, kernel


def numbers(*shape: int) -> np.ndarray:
    """Standard normal float32 numbers, the same each time."""
    return np.random.default_rng(7).standard_normal(shape).astype(F32)


def reverse_rows(dev: Any, bug: bool) -> np.ndarray:
    x = numbers(40, 96)
    y = poisoned(x.shape, F32)
    kernel("missing_barrier.cu", "reverse_row", F32, bug)(dev, 40, 96, (x, y, 96))
    return y


def swap_lanes(dev: Any, bug: bool) -> np.ndarray:
    x = numbers(32)
    y = poisoned(x.shape, F32)
    kernel("missing_barrier.cu", "swap_lanes", F32, bug)(dev, 1, 32, (x, y))
    return y


@pytest.mark.parametrize("run", [reverse_rows, swap_lanes])
def test_removed_barrier_shows_as_another_result_in_another_order(
    dev: Any, run: Any
) -> None:
    right = [run(dev, False) for _ in in_every_order(dev)]
    assert all(y.tobytes() == right[0].tobytes() for y in right)
    wrong = [run(dev, True) for _ in in_every_order(dev)]
    assert len({y.tobytes() for y in wrong}) > 1
    assert all(np.isnan(y).any() for y in wrong)  # each saw a value not yet written


def test_unwritten_output_stays_nan(dev: Any) -> None:
    for bug in (False, True):
        x = numbers(100)
        y = poisoned(x.shape, F32)
        kernel("unwritten.cu", "twice", F32, bug)(dev, 4, 32, (x, y, 100))
        assert np.array_equal(y[:99], 2 * x[:99])
        assert np.isnan(y[99]) == bug


def test_a_compilers_error_has_the_kernel_files_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.cu"
    path.write_text(
        '#include "common.cuh"\ntemplate <typename T>\n'
        "__global__ void twice(T* x) {\n  x[0] *= two;\n}\nINSTANTIATE(twice<float>);\n"
    )
    with pytest.raises(MinicnnError, match=rf"(?s){path}:4.*two"):
        EmulatedLauncher(workers=1).build(KernelFile(path).source, "float")


@pytest.mark.parametrize("dtype", [F32, F64])
def test_shared_memory_starts_as_nan_in_every_block(dev: Any, dtype: type) -> None:
    x, y = np.ones(5, dtype), np.zeros(1, dtype)
    kernel("unwritten.cu", "sum", F32, False)(
        dev, 3, 32, (np.ones(5, F32), np.zeros(1, F32), 5)
    )
    kernel("unwritten.cu", "sum", dtype, True)(dev, 3, 32, (x, y, 5))
    assert np.isnan(y[0])


# What the message says; {odd} is the place of the line marked so.
DIVERGENCES = {
    1: "(0,0,0) waits at __syncthreads ({end}) but thread (40,0,0) has returned",
    2: "(0,0,0) waits at __syncthreads ({even}) but thread (1,0,0) waits at "
    "__syncthreads ({odd})",
    3: "(0,0,0) waits at __shfl_xor_sync ({shuffle}), mask ffffffff but thread (5,0,0) "
    "waits at __syncthreads ({end})",
    4: "(0,0,0) waits at __shfl_xor_sync ({others}), mask ffffffff but thread (5,0,0) "
    "waits at __syncthreads ({lane})",
    5: "(0,0,0) waits at mma_m16n8k16_bf16 ({mma}), mask ffffffff, which needs a whole "
    "warp of 32 threads",
    6: "(16,0,0): __shfl_sync ({mask}): its mask has no bit for the calling lane",
    7: "(3,0,0) waits at __syncthreads ({loop}) but thread (0,0,0) has returned",
}
SIZES = {1: (64, 40), 5: (20, 20), 6: (32, 32)}  # threads, and n


@pytest.mark.parametrize("case", DIVERGENCES)
def test_barrier_that_not_all_reach_is_named(dev: Any, case: int) -> None:
    path = PLANTED / "divergence.cu"
    places = {
        line.split("// ")[1].split()[0]: f"{path}:{number}"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if line.startswith("  ") and "// " in line
    }
    threads, n = SIZES.get(case, (64, 64))
    told = DIVERGENCES[case].format(**places)
    message = f"diverge<{case}>: block (0,0,0), thread {told}"
    y = np.empty(n, np.int32)
    with pytest.raises(MinicnnError, match=re.escape(message)):
        kernel("divergence.cu", "diverge", case)(dev, 1, threads, (y, n))
    # The device is whole again afterwards.
    y = poisoned((64,), np.int32)
    kernel("divergence.cu", "diverge", 0)(dev, 1, 64, (y, 64))
    assert np.array_equal(y, np.arange(64))


def test_missing_cp_async_wait_shows(dev: Any) -> None:
    x = numbers(6, 128)
    right = np.concatenate([x[:, ::-1], np.zeros((1, 128), F32)])
    for case, _ in itertools.product(range(4), in_every_order(dev)):
        y = poisoned((7, 128), F32)
        kernel("missing_wait.cu", "copy_tiles", case)(dev, 1, 32, (x, y, 6))
        assert np.array_equal(y, right) == (case == 0), case
        assert np.isnan(y).any() == (case != 0), case


def test_value_of_another_size_is_refused_below_the_wrapper(dev: Any) -> None:
    # What CuPy does with a Python float: eight bytes where the kernel takes four.
    see, out = kernel("primitives.cu", "see"), poisoned((12,), F64)
    shape = np.zeros((), see.instance.parameters[1].dtype)
    rest = [np.float64(2), np.bool_(1), np.uint64(3), None]
    one = (1, 1, 1)
    right = [out, shape, np.int32(1), np.float32(0.25), *rest]
    dev.launcher.launch(see, one, one, right, 0)
    assert out[7] == 0.25
    wrong = [out, shape, np.int32(1), np.float64(0.25), *rest]
    message = r"^see: argument f: 8 bytes \(float64\) for a parameter of 4 \(float\)"
    with pytest.raises(MinicnnError, match=message):
        dev.launcher.launch(see, one, one, wrong, 0)


OUT_OF_BOUNDS = {
    "add_next": "AddressSanitizer: heap-buffer-overflow",
    "add_next_shared": "AddressSanitizer: use-after-poison",
    "add_next_dynamic": "AddressSanitizer: use-after-poison",
    "copy_four": "misaligned address",
}


def out_of_bounds(name: str, bug: bool) -> None:
    """Runs a kernel of past_the_end.cu; what the child processes below do."""
    dev = SimpleNamespace(launcher=EmulatedLauncher())
    n = {"copy_four": 4, "add_next_shared": 64}.get(name, 33)
    x, y = numbers(n), poisoned((n,), F32)
    args = (x, y) if name == "copy_four" else (x, y, n)
    threads = 1 if name == "copy_four" else n
    kernel("past_the_end.cu", name, F32, bug)(dev, 1, threads, args, shared=4 * n)
    assert np.isfinite(y).all()


@pytest.mark.parametrize("name", OUT_OF_BOUNDS)
def test_index_past_the_end_is_found_by_the_sanitizers(name: str) -> None:
    code = f"from {__name__} import out_of_bounds; out_of_bounds({name!r}, True)"
    root = Path(__file__).parents[2]
    done = emulator.sanitized(["-c", code], cwd=root, capture_output=True)
    assert done.returncode == 66, done.stderr
    assert OUT_OF_BOUNDS[name] in done.stderr
    assert re.search(r"(past_the_end\.cu|common\.cuh):\d+", done.stderr)


@pytest.mark.parametrize("name", OUT_OF_BOUNDS)
def test_bounds_kept(name: str) -> None:
    out_of_bounds(name, False)


def test_write_past_shared_memory_is_found_without_sanitizers(dev: Any) -> None:
    y = poisoned((32,), F32)
    kernel("past_the_end.cu", "write_past_shared", F32, False)(dev, 1, 32, (y,))
    with pytest.raises(MinicnnError, match="past the end of the __shared__ array row"):
        kernel("past_the_end.cu", "write_past_shared", F32, True)(dev, 1, 32, (y,))


def test_compile_error_shows_file_and_line(dev: Any, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.cu"
    wrong.write_text(
        '// two lines\n/* of\ncomment */\n#include "common.cuh"\n'
        "__global__ void f(int* y) {\n    y[0] = nothing;\n}\n"
    )
    with pytest.raises(MinicnnError, match=r"wrong\.cu:6:.*nothing.* was not declared"):
        KernelFile(wrong).get("f")(dev, 1, 1, (np.zeros(1, np.int32),))


def test_thread_order_is_checked() -> None:
    with pytest.raises(MinicnnError, match="thread order sideways: choose forward"):
        EmulatedLauncher("sideways")
