"""The emulator: that it computes what a GPU does, and finds what a GPU would hide."""

from __future__ import annotations

import ctypes
import itertools
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minicnn import emulator, host_compiler, nvrtc, philox
from minicnn.emulator import EmulatedLauncher, poisoned
from minicnn.errors import MinicnnError
from minicnn.launch import KernelFile
from minicnn.precision import BF16

PLANTED = Path(__file__).parent / "planted"
ORDERS = ("forward", "reverse", "shuffled:1", "shuffled:2", "shuffled:3")
F32, F64 = np.float32, np.float64


@pytest.fixture(params=[1, 3], ids=lambda workers: f"{workers} workers")
def dev(request: pytest.FixtureRequest) -> Any:
    """An emulated device, on one and on several operating-system threads."""
    return SimpleNamespace(launcher=EmulatedLauncher(workers=request.param))


def in_every_order(dev: Any) -> Iterator[str]:
    """Sets the device's thread order to each there is."""
    for order in ORDERS:
        dev.launcher.order = order
        yield order
    dev.launcher.order = "forward"


def kernel(file: str, name: str, *template: Any) -> Any:
    """A kernel of tests/planted."""
    return KernelFile(PLANTED / file).get(name, *template)


def numbers(*shape: int) -> np.ndarray:
    """Standard normal float32 numbers, the same each time."""
    return np.random.default_rng(7).standard_normal(shape).astype(F32)


# --- planted bugs -------------------------------------------------------------


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


@pytest.mark.parametrize("dtype", [F32, F64])
def test_shared_memory_starts_as_nan_in_every_block(dev: Any, dtype: type) -> None:
    x, y = np.ones(5, dtype), np.zeros(1, dtype)
    kernel("unwritten.cu", "sum", F32, False)(
        dev, 3, 32, (np.ones(5, F32), np.zeros(1, F32), 5)
    )
    kernel("unwritten.cu", "sum", dtype, True)(dev, 3, 32, (x, y, 5))
    assert np.isnan(y[0])


# case: threads, n, what the message says; {odd} is the place of the line marked so.
DIVERGENCES = {
    1: (
        64,
        40,
        r"(0,0,0) waits at __syncthreads ({end}) but thread (40,0,0) has returned",
    ),
    2: (
        64,
        64,
        r"(0,0,0) waits at __syncthreads ({even}) but thread (1,0,0) waits at "
        r"__syncthreads ({odd})",
    ),
    3: (
        64,
        64,
        r"(0,0,0) waits at __shfl_xor_sync ({shuffle}), mask ffffffff but thread "
        r"(5,0,0) waits at __syncthreads ({end})",
    ),
    4: (
        64,
        64,
        r"(0,0,0) waits at __shfl_xor_sync ({others}), mask ffffffff but thread "
        r"(5,0,0) waits at __syncthreads ({lane})",
    ),
    5: (
        20,
        20,
        r"(0,0,0) waits at mma_m16n8k16_bf16 ({mma}), mask ffffffff, which needs a "
        r"whole warp of 32 threads",
    ),
    6: (
        32,
        32,
        r"(16,0,0): __shfl_sync ({mask}): its mask has no bit for the calling lane",
    ),
    7: (
        64,
        64,
        r"(3,0,0) waits at __syncthreads ({loop}) but thread (0,0,0) has returned",
    ),
}


@pytest.mark.parametrize("case", DIVERGENCES)
def test_barrier_that_not_all_reach_is_named(dev: Any, case: int) -> None:
    path = PLANTED / "divergence.cu"
    places = {
        line.split("// ")[1].split()[0]: f"{path}:{number}"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if line.startswith("  ") and "// " in line
    }
    threads, n, message = DIVERGENCES[case]
    message = f"diverge<{case}>: block (0,0,0), thread {message.format(**places)}"
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


def sanitized(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python under the sanitizers, from the repository's root."""
    root = Path(__file__).parent.parent
    return emulator.sanitized(arguments, cwd=root, capture_output=True)


@pytest.mark.parametrize("name", OUT_OF_BOUNDS)
def test_index_past_the_end_is_found_by_the_sanitizers(name: str) -> None:
    run = f"from tests.test_emulator import out_of_bounds as run; run({name!r}, True)"
    done = sanitized("-c", run)
    assert done.returncode == 66, done.stderr
    assert OUT_OF_BOUNDS[name] in done.stderr
    assert re.search(r"(past_the_end\.cu|common\.cuh):\d+", done.stderr)


def test_right_kernels_run_clean_under_the_sanitizers() -> None:
    names = "matmul or warp or mma or cp_async or named or bounds_kept"
    done = sanitized("-m", "pytest", __file__, "-k", names)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


@pytest.mark.parametrize("name", OUT_OF_BOUNDS)
def test_bounds_kept(name: str) -> None:
    out_of_bounds(name, False)


def test_write_past_shared_memory_is_found_without_sanitizers(dev: Any) -> None:
    y = poisoned((32,), F32)
    kernel("past_the_end.cu", "write_past_shared", F32, False)(dev, 1, 32, (y,))
    with pytest.raises(MinicnnError, match="past the end of the __shared__ array row"):
        kernel("past_the_end.cu", "write_past_shared", F32, True)(dev, 1, 32, (y,))


# --- what it computes ---------------------------------------------------------


@pytest.mark.parametrize("dtype", [F32, F64])
def test_matmul_is_exact_for_whole_numbers_in_every_order(
    dev: Any, dtype: type
) -> None:
    a = np.random.default_rng(5).integers(-9, 10, (64, 48))
    b = np.random.default_rng(6).integers(-9, 10, (48, 96))
    for _ in in_every_order(dev):
        c = poisoned((64, 96), dtype)
        args = (a.astype(dtype), b.astype(dtype), c, 96, 48)
        kernel("matmul.cu", "matmul", dtype, 2)(dev, (3, 2), 256, args)
        assert np.array_equal(c, a @ b)


def test_warp_collectives(dev: Any) -> None:
    x = np.random.default_rng(1).permutation(100)[:32].astype(np.int32)
    lane, ballot = np.arange(32), sum(1 << i for i in range(32) if x[i] % 3 == 0)
    down, up = lane + 3, lane - 2
    expected = [
        np.full(32, x[3]),
        x[lane // 8 * 8 + lane // 2 % 8],
        x[np.where(up < 0, lane, up)],
        x[np.where(down // 16 != lane // 16, lane, down)],
        x[lane ^ 5],
        np.full(32, np.uint32(ballot).view(np.int32)),
        np.ones(32),
        np.zeros(32),
        x[np.where(lane < 16, 15, 16)],
        np.full(32, np.count_nonzero(x % 3 == 0)),
    ]
    for _ in in_every_order(dev):
        out = poisoned((10, 32), np.int32)
        kernel("primitives.cu", "warp_words")(dev, 1, 32, (x, out))
        assert np.array_equal(out, expected)


@pytest.mark.parametrize("threads", [32, 20])
def test_lanes_that_are_gone_are_not_waited_for(dev: Any, threads: int) -> None:
    x = np.arange(100, 132, dtype=np.int32)
    for _ in in_every_order(dev):
        y = np.zeros(32, np.int32)
        kernel("primitives.cu", "early_return")(dev, 1, threads, (x, y, 20))
        assert np.array_equal(y, np.r_[x[np.arange(20) ^ 1], np.zeros(12)])


def test_orders_are_what_they_are_called() -> None:
    dev = SimpleNamespace(launcher=EmulatedLauncher(workers=1))
    seen = {}
    for order in (*in_every_order(dev), "shuffled:1"):
        dev.launcher.order = order
        out, counter = np.zeros(7 * 80, np.int32), np.zeros(1, np.int32)
        kernel("primitives.cu", "running_order")(dev, 7, 80, (out, counter))
        assert np.array_equal(np.sort(out), np.arange(7 * 80))
        assert np.array_equal(seen.setdefault(order, out), out)  # again the same
    assert np.array_equal(seen["forward"], np.arange(7 * 80))
    assert np.array_equal(seen["reverse"], np.arange(7 * 80)[::-1])
    assert len({out.tobytes() for out in seen.values()}) == len(ORDERS)
    blocks = seen["shuffled:1"].reshape(7, 80) // 80
    assert np.array_equal(blocks, blocks[:, :1].repeat(80, 1))
    assert not np.array_equal(blocks[:, 0], np.arange(7))
    assert np.any(np.diff(seen["shuffled:1"][:16]) != 1)  # lanes within a warp too


@pytest.mark.parametrize("dtype", ["float", "int"])
def test_warps_run_ahead_of_their_block(dev: Any, dtype: str) -> None:
    x = np.arange(6 * 1024).reshape(6, 1024) % 97
    x = x.astype(F32 if dtype == "float" else np.int32)
    for _ in in_every_order(dev):
        total = poisoned((6,), x.dtype)
        kernel("primitives.cu", "block_sum", x.dtype)(dev, 6, 1024, (x, total))
        assert np.array_equal(total, x.sum(axis=1))  # whole numbers: exact in any order


def test_places_cover_grid_and_block(dev: Any) -> None:
    grid, block = (3, 2, 4), (5, 3, 2)
    expected = [
        (bx, by, bz, tx, ty, tz)
        for bz, by, bx in np.ndindex(grid[::-1])
        for tz, ty, tx in np.ndindex(block[::-1])
    ]
    for _ in in_every_order(dev):
        where = poisoned((24 * 30, 6), np.int32)
        kernel("primitives.cu", "places")(dev, grid, block, (where,))
        assert np.array_equal(where, expected)


def as_bf16(x: np.ndarray) -> np.ndarray:
    """Small whole numbers as bfloat16: exact, by truncation."""
    return (x.astype(F32).view(np.uint32) >> 16).astype(np.uint16).view(BF16)


@pytest.mark.parametrize("trans", [False, True])
def test_mma_bf16_through_ldmatrix_is_the_matrix_product(dev: Any, trans: bool) -> None:
    a, b = (np.random.default_rng(2).integers(-9, 10, s) for s in ((16, 16), (16, 8)))
    for _ in in_every_order(dev):
        c = poisoned((16, 8), F32)
        stored = as_bf16(b if trans else np.ascontiguousarray(b.T))
        args = (as_bf16(a), stored, c)
        kernel("primitives.cu", "mma_bf16", trans)(dev, 1, 32, args)
        assert np.array_equal(c, a @ b)


def test_mma_tf32_is_the_matrix_product(dev: Any) -> None:
    a, b = (np.random.default_rng(3).integers(-9, 10, s) for s in ((16, 8), (8, 8)))
    for _ in in_every_order(dev):
        c = poisoned((16, 8), F32)
        args = (a.astype(F32), b.astype(F32), c)
        kernel("primitives.cu", "mma_tf32")(dev, 1, 32, args)
        assert np.array_equal(c, a @ b)


def test_ldmatrix_trans_transposes(dev: Any) -> None:
    a = np.arange(256, dtype=np.uint16).reshape(16, 16)
    b = poisoned((16, 16), np.uint16)
    kernel("primitives.cu", "transpose")(dev, 1, 32, (a, b))
    # Matrices 0 to 3 are the tiles at (0,0) (8,0) (0,8) (8,8); each comes transposed.
    assert np.array_equal(b, a.T)


def nearest(x: np.ndarray, mantissa: int, smallest: int) -> np.ndarray:
    """x rounded to that many mantissa bits, ties to even, by float64 arithmetic.

    Args:
        x: finite float64.
        mantissa: bits after the leading one.
        smallest: the exponent of the smallest normal number.
    """
    exponent = np.maximum(np.frexp(x)[1] - 1, smallest)
    unit = np.ldexp(1.0, exponent - mantissa)
    return np.rint(x / unit) * unit  # exact but for rint, which takes ties to even


def test_bf16_half_and_tf32_round_to_nearest_even(dev: Any) -> None:
    rng = np.random.default_rng(4)
    patterns = rng.integers(0, 1 << 32, 200_000, dtype=np.uint64).astype(np.uint32)
    ties = np.arange(0, 1 << 16, dtype=np.uint32) << np.uint32(16)
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(F64)
    between = ((halves[1:] + halves[:-1]) / 2).astype(F32)
    special = np.array(
        [65519.99, 65520, -65520, 1e-8, 2**-25, 0.0, -0.0, np.inf, -np.inf]
    )
    x = np.concatenate(
        [patterns.view(F32), (ties | 0x8000).view(F32), between, special.astype(F32)]
    )
    b, h, t = (poisoned(x.shape, d) for d in (np.uint16, np.uint16, F32))
    kernel("primitives.cu", "narrow")(dev, 100, 64, (x, b, h, t, x.size))
    with np.errstate(all="ignore"):
        nan, wide = np.isnan(x), np.where(np.isfinite(x), x, 0).astype(F64)
        as_half = x.astype(np.float16)
        bf16_value = nearest(wide, 7, -126)
        bf16_value = np.where(np.isfinite(x), bf16_value, x).astype(F32)
    assert np.array_equal(np.isnan(h.view(np.float16)), nan)
    assert np.array_equal(h[~nan], as_half[~nan].view(np.uint16))
    got = (b.astype(np.uint32) << 16).view(F32)
    assert np.array_equal(np.isnan(got), nan)
    assert np.array_equal(got[~nan].view(np.uint32), bf16_value[~nan].view(np.uint32))
    # tf32 (cvt.rna): at most half of the last place off, the last 13 bits zero.
    normal = np.isfinite(x) & (np.abs(x) > 1e-37) & (np.abs(x) < 1e38)
    unit = np.ldexp(1.0, np.frexp(x[normal].astype(F64))[1] - 11)
    assert np.all(np.abs(t[normal] - x[normal].astype(F64)) <= unit / 2)
    assert not np.any(t[normal].view(np.uint32) & 0x1FFF)


def test_bf16_and_half_widen_exactly(dev: Any) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    from_b, from_h = poisoned((1 << 16,), F32), poisoned((1 << 16,), F32)
    args = (bits.view(BF16), bits.view(np.float16), from_b, from_h, 1 << 16)
    kernel("primitives.cu", "widen")(dev, 64, 128, args)
    assert np.array_equal(from_b.view(np.uint32), bits.astype(np.uint32) << 16)
    assert np.array_equal(from_h, bits.view(np.float16).astype(F32), equal_nan=True)


def test_philox_words_are_those_of_numpy(dev: Any) -> None:
    seed, stream, step = 0xDEADBEEF12345678, 0x101, 0x0000000500000007
    out = poisoned((50, 4), np.uint32)
    args = (out, seed, stream, step, 3, 50)
    kernel("primitives.cu", "random_words")(dev, 2, 32, args)
    assert np.array_equal(out.ravel(), philox.words(seed, stream, step, 200, start=12))


def test_structs_and_numbers_arrive_whole(dev: Any) -> None:
    out = poisoned((12,), F64)
    shape = {"n": 3, "c": -4, "scale": 0.5, "far": 1 << 40, "pad": (6, 7)}
    args = (out, shape, -8, 0.25, 1 / 3, True, 1 << 50, None)
    kernel("primitives.cu", "see")(dev, 1, 1, args)
    assert out.tolist() == [3, -4, 0.5, 1 << 40, 6, 7, -8, 0.25, 1 / 3, 1, 1 << 50, 1]


# --- compiling ----------------------------------------------------------------


def test_compile_error_shows_file_and_line(dev: Any, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.cu"
    wrong.write_text(
        '// two lines\n/* of\ncomment */\n#include "common.cuh"\n'
        "__global__ void f(int* y) {\n    y[0] = nothing;\n}\n"
    )
    with pytest.raises(MinicnnError, match=r"wrong\.cu:6:.*nothing.* was not declared"):
        KernelFile(wrong).get("f")(dev, 1, 1, (np.zeros(1, np.int32),))


def test_missing_compiler_names_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(MinicnnError, match=r"install g\+\+ .*apt install g\+\+"):
        host_compiler.compiler.__wrapped__()


def test_objects_are_cached_by_content(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = 'extern "C" int answer() { return 42; }\n'
    first = host_compiler.compile_library("answer", text)
    written = first.stat().st_mtime_ns
    assert first.parent == tmp_path / "minicnn"
    assert host_compiler.compile_library("answer", text) == first
    assert first.stat().st_mtime_ns == written
    other = text.replace("42", "43")
    assert host_compiler.compile_library("answer", other) != first
    assert sorted(p.suffix for p in first.parent.iterdir()) == [".so", ".so"]


def test_who_wants_the_same_object_waits_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    slow, log = tmp_path / "slow", tmp_path / "log"
    compiler = host_compiler.compiler()[0]
    slow.write_text(f'#!/bin/sh\necho >> {log}; sleep 0.5; exec {compiler} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setattr(host_compiler, "compiler", lambda: (str(slow),))
    host_compiler._fingerprint.cache_clear()
    text = 'extern "C" int answer() { return 42; }\n'
    with ThreadPoolExecutor(3) as threads:
        jobs = [
            threads.submit(host_compiler.compile_library, "answer", text)
            for _ in range(3)
        ]
        (path,) = {job.result() for job in jobs}
    host_compiler._fingerprint.cache_clear()
    assert log.read_text() == "\n"
    assert list(path.parent.iterdir()) == [path]


def test_options_of_cxx_come_last(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = """
#ifdef __OPTIMIZE__
extern "C" int optimised() { return 1; }
#else
extern "C" int optimised() { return 0; }
#endif
"""
    program = host_compiler.compiler()[0]
    for command, answer in ((program,), 1), ((program, "-O0", "-g"), 0):
        monkeypatch.setattr(host_compiler, "compiler", lambda it=command: it)
        host_compiler._fingerprint.cache_clear()
        path = host_compiler.compile_library("optimised", text)
        assert ctypes.CDLL(str(path)).optimised() == answer
    host_compiler._fingerprint.cache_clear()


def test_thread_order_is_checked() -> None:
    with pytest.raises(MinicnnError, match="thread order sideways: choose forward"):
        EmulatedLauncher("sideways")


# --- the real compiler --------------------------------------------------------


@pytest.mark.skipif(
    not nvrtc.available(), reason="NVRTC absent: pip install minicnn[test]"
)
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
def test_nvrtc_compiles_and_reports(arch: str) -> None:
    reports = {
        report.name: report
        for name in ("matmul.cu", "primitives.cu", "missing_wait.cu")
        for report in nvrtc.compile_report(PLANTED / name, arch)
    }
    assert {r.spill_stores + r.spill_loads for r in reports.values()} == {0}
    assert all(8 <= r.registers <= 128 for r in reports.values())
    assert reports["matmul<float, 8>"].registers > 64  # it holds 64 sums
    assert reports["matmul<float, 8>"].shared_bytes == 2 * 16 * 132 * 4
    assert reports["mma_bf16<false>"].shared_bytes == 2 * 16 * 16 + 2 * 16 * 8
    assert reports["mma_bf16<true>"].uses("mma.sync.aligned.m16n8k16")
    assert reports["mma_bf16<true>"].uses("ldmatrix")
    assert reports["copy_tiles<0>"].uses("cp.async.cg.shared.global")
    assert not reports["matmul<float, 8>"].uses("mma.sync")


@pytest.mark.skipif(
    not nvrtc.available(), reason="NVRTC absent: pip install minicnn[test]"
)
def test_nvrtc_sees_spills_and_errors(tmp_path: Path) -> None:
    spills = tmp_path / "spills.cu"
    spills.write_text(
        "__global__ void __launch_bounds__(1024, 2) f(float* y, int n) {\n"
        "  float a[96];\n"
        "#pragma unroll\n  for (int i = 0; i < 96; i++) a[i] = y[i];\n"
        "  for (int j = 0; j < n; j++)\n"
        "#pragma unroll\n"
        "    for (int i = 0; i < 96; i++) a[i] += a[(i + 7) % 96] * y[j];\n"
        "#pragma unroll\n  for (int i = 0; i < 96; i++) y[i] = a[i];\n}\n"
    )
    (report,) = nvrtc.compile_report(spills)
    assert report.registers <= 32
    assert report.spill_stores > 0
    wrong = tmp_path / "wrong.cu"
    wrong.write_text("__global__ void f(int* y) {\n  y[0] = nothing;\n}\n")
    with pytest.raises(
        MinicnnError, match=r'wrong\.cu\(2\): error: identifier "nothing"'
    ):
        nvrtc.compile_report(wrong)
