"""The launch wrapper: what it hands to a device, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minicnn.base.errors import MinicnnError
from minicnn.base.precision import BF16
from minicnn.compile.kernel_source import KernelSource, c_name, flatten
from minicnn.devices.launch import KernelFile

SOURCE = """
#include "common.cuh"
// __global__ void in_a_comment(int x);
struct Shape { int n, c; float scale; int pad[2]; };
template <typename T, int TILE, bool FAST>
__global__ void __launch_bounds__(256)
scale(const T* __restrict__ x, T* __restrict__ y, int n, float factor, T offset,
      const unsigned char *flags, Shape shape) {
    y[0] = x[0] * factor + offset + n + TILE + FAST + flags[0] + shape.n;
}
extern "C" __global__ void plain(unsigned long long seed, bool flag) {}
INSTANTIATE(scale<float, 16, true>, scale<double, 16, true>);
INSTANTIATE(scale<float, 32, false>);
"""


class FakeLauncher:
    """Keeps what it is handed."""

    array = np.ndarray

    def __init__(self) -> None:
        self.launched: list[Any] = []

    def launch(self, kernel: Any, *rest: Any) -> None:
        self.launched.append((kernel.name, *rest))


@pytest.fixture
def dev() -> Any:
    return SimpleNamespace(launcher=FakeLauncher())


def kernel_file(folder: Path) -> KernelFile:
    """A file of two kernels."""
    path = folder / "scale.cu"
    path.write_text(SOURCE)
    return KernelFile(path)


@pytest.fixture
def file(tmp_path: Path) -> KernelFile:
    return kernel_file(tmp_path)


def arguments(**changed: Any) -> list[Any]:
    """Arguments that scale<float, …> accepts, but for those changed."""
    given = {
        "x": np.zeros(4, np.float32),
        "y": np.zeros(4, np.float32),
        "n": 4,
        "factor": 0.1,
        "offset": 1,
        "flags": np.zeros(4, np.uint8),
        "shape": {"n": 1, "c": 2, "scale": 0.5, "pad": (3, 4)},
    }
    return list((given | changed).values())


def test_numbers_are_cast_to_the_declared_types(dev: Any, file: KernelFile) -> None:
    args = arguments(factor=np.float64(0.1), n=np.int64(4))
    file.get("scale", np.float32, 16, True)(dev, 3, (8, 4), args, shared=64)
    (name, grid, block, values, shared), *_ = dev.launcher.launched
    assert name == "scale<float, 16, true>"
    assert (grid, block, shared) == ((3, 1, 1), (8, 4, 1), 64)
    x, y, n, factor, offset, flags, shape = values
    assert (x is args[0], y is args[1], flags is args[5]) == (True, True, True)
    assert (type(n), type(factor), type(offset)) == (np.int32, np.float32, np.float32)
    assert factor == np.float32(0.1)
    # int n, c; float scale; int pad[2], as C lays them out.
    assert shape.nbytes == 20
    expected = np.array([1, 2, 0, 3, 4], np.int32)
    expected.view(np.float32)[2] = 0.5
    assert shape.tobytes() == expected.tobytes()


def test_template_type_decides_the_dtype(dev: Any, file: KernelFile) -> None:
    doubles = arguments(x=np.zeros(4), y=np.zeros(4))
    file.get("scale", np.float64, 16, True)(dev, 1, 1, doubles)
    offset = dev.launcher.launched[0][3][4]
    assert type(offset) is np.float64
    with pytest.raises(MinicnnError, match="x: dtype float32, declared float64"):
        file.get("scale", np.float64, 16, True)(dev, 1, 1, arguments())


def read_only() -> np.ndarray:
    array = np.zeros(4, np.float32)
    array.flags.writeable = False
    return array


REFUSED = {
    "x: dtype float64, declared float32; convert": {"x": np.zeros(4)},
    "y: dtype int32, declared float32": {"y": np.zeros(4, np.int32)},
    r"y: a view of shape \(4,\) with gaps, .*; pass a copy": {
        "y": np.zeros(8, np.float32)[::2]
    },
    "x: begins 4 bytes past a multiple of 16, .*; pass a copy": {
        "x": np.zeros(8, np.float32)[1:5]
    },
    "y: begins 12 bytes past a multiple of 16": {"y": np.zeros(8, np.float32)[3:]},
    "y: read-only, and the kernel writes to it": {"y": read_only()},
    r"x: list where .* \(numpy.ndarray\); its from_host makes one": {"x": [1.0]},
    "n: 4.0, declared int": {"n": 4.0},
    "n: 2147483648 beyond int": {"n": 2**31},
    "n: ndarray where a number is due": {"n": np.zeros(1, np.int32)},
    "factor: '1', declared float": {"factor": "1"},
    "factor: NoneType where a number is due": {"factor": None},
    "shape: Shape has the fields n, c, scale, pad; given n": {"shape": {"n": 1}},
    r"shape: field pad: shape \(3,\), declared \(2,\)": {
        "shape": {"n": 1, "c": 2, "scale": 3, "pad": (1, 2, 3)}
    },
    "shape.c: 0.5, declared int": {
        "shape": {"n": 1, "c": 0.5, "scale": 3, "pad": (1, 2)}
    },
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_does_not_fit_is_refused_by_name(
    dev: Any, file: KernelFile, message: str
) -> None:
    kernel = file.get("scale", np.float32, 32, False)
    with pytest.raises(
        MinicnnError, match=f"^scale<float, 32, false>: argument {message}"
    ):
        kernel(dev, 1, 1, arguments(**REFUSED[message]))
    assert not dev.launcher.launched


def test_read_only_input_and_null_pointer_are_fine(dev: Any, file: KernelFile) -> None:
    kernel = file.get("scale", np.float32, 32, False)
    kernel(dev, 1, 1, arguments(x=read_only(), flags=None))
    assert dev.launcher.launched[0][3][5] is None


@pytest.mark.parametrize(
    ("grid", "block", "message"),
    [
        (1, (32, 33), r"block \(32, 33\): over 1024 threads"),
        (0, 32, "grid 0: one to three positive numbers"),
        (1, (1, 1, 1, 1), r"block \(1, 1, 1, 1\): one to three positive numbers"),
        ((1, 65536), 32, r"grid \(1, 65536\): over"),
    ],
)
def test_impossible_launches_are_refused(
    dev: Any, file: KernelFile, grid: Any, block: Any, message: str
) -> None:
    with pytest.raises(MinicnnError, match=f"^plain: {message}"):
        file.get("plain")(dev, grid, block, (1, True))


def test_wrong_count_names_the_parameters(dev: Any, file: KernelFile) -> None:
    with pytest.raises(MinicnnError, match="plain: 3 arguments for 2: seed, flag"):
        file.get("plain")(dev, 1, 1, (1, True, 2))


def test_unknown_instance_says_what_there_is(file: KernelFile) -> None:
    with pytest.raises(
        MinicnnError,
        match=r"no kernel scale<double, 8, true>; it offers scale<float, 16",
    ):
        file.get("scale", np.float64, 8, True)


def test_sums_are_declared_by_the_type_they_sum(dev: Any, tmp_path: Path) -> None:
    path = tmp_path / "sum.cu"
    path.write_text("""
        template <typename T>
        __global__ void sum(const T* x, accumulator<T>* y, accumulator<T> start) {}
        INSTANTIATE(sum<float>, sum<double>, sum<bf16>);
    """)
    wide = {np.float32: np.float32, np.float64: np.float64, BF16.type: np.float32}
    for narrow, accumulator in wide.items():
        x, y = np.zeros(8, narrow), np.zeros(8, accumulator)
        KernelFile(path).get("sum", narrow)(dev, 1, 1, (x, y, 1))
        assert type(dev.launcher.launched[-1][3][2]) is accumulator
    bits = np.zeros(8, np.uint16)
    with pytest.raises(MinicnnError, match="x: dtype uint16, declared bfloat16"):
        KernelFile(path).get("sum", BF16)(dev, 1, 1, (bits, y, 1))


def test_template_arguments_in_c() -> None:
    given = [np.float32, "float64", np.dtype(np.float16), BF16, 3, True]
    assert [c_name(value) for value in given] == [
        "float", "double", "f16", "bf16", "3", "true",
    ]  # fmt: skip
    with pytest.raises(MinicnnError, match="no kernel is written for dtype complex64"):
        c_name("complex64")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "__global__ void f(std::vector<int> v) {}",
            r"f: parameter `std::vector<int> v`",
        ),
        (
            "\n__global__ int f(int v) {}",
            r"bad.cu:2: not understood: write a kernel as",
        ),
        (
            "INSTANTIATE(nothing<float>);",
            r"INSTANTIATE\(nothing<float>\): no such kernel",
        ),
        (
            "template <class T> __global__ void f(T* x) {}\nINSTANTIATE(f<float, 2>);",
            r"INSTANTIATE\(f<float, 2>\): f has 1 template parameters",
        ),
        ('#include "missing.cuh"', r"bad.cu:1: include missing.cuh not found"),
    ],
)
def test_kernel_files_that_cannot_be_read(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "bad.cu"
    path.write_text(text)
    with pytest.raises(MinicnnError, match=message):
        KernelSource.read(path)


def test_flat_text_includes_once_and_keeps_strings(tmp_path: Path) -> None:
    (tmp_path / "a.cuh").write_text("#pragma once\nint a;\n")
    (tmp_path / "k.cu").write_text(
        '#include "a.cuh"\n#include "a.cuh"\nconst char* c = "// kept"; // "end"\n'
    )
    text = flatten(tmp_path / "k.cu")
    assert text.count("int a;") == 1
    assert 'const char* c = "// kept";' in text
