"""The cpu device's compiled code: compiled, called, refused, and done without."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from minicnn.base.errors import MinicnnError
from minicnn.cli import doctor
from minicnn.compile import native
from minicnn.compile.native import NativeFile
from minicnn.devices import device
from minicnn.ops import Forms, op
from minicnn.training import environment

SOURCE = """
#include "native.h"
struct Line { float slope; int shift[2]; };
// y[i] = slope · x[i] + shift[which]
template <typename T>
EXPORT void line(i64 start, i64 stop, const T* x, T* y, const Line* line, int which) {
    for (i64 i = start; i < stop; i++) y[i] = line->slope * x[i] + line->shift[which];
}
INSTANTIATE(line<float>, line<double>);
"""
LINE = {"slope": 2.0, "shift": (5, 7)}
pytestmark = pytest.mark.usefixtures("compiler")


@pytest.fixture
def file(tmp_path: Path) -> NativeFile:
    (tmp_path / "native.h").write_text((native.CPU / "native.h").read_text("utf-8"))
    (tmp_path / "line.cpp").write_text(SOURCE)
    return NativeFile(tmp_path / "line.cpp")


def test_a_function_runs_on_parts_of_an_array(file: NativeFile, dtype: type) -> None:
    x, y = np.arange(9, dtype=dtype), np.full(9, -1, dtype)
    line = file.get("line", dtype)
    line.bind((x, y, LINE, 1), {"x": 9})(2, 5)
    assert y.tolist() == [-1, -1, 11, 13, 15, -1, -1, -1, -1]
    for threads in (1, 2, 3):
        y[...] = -1
        line(device.get("cpu", threads), 9, (x, y, LINE, 0), {"x": 9, "y": 9})
        assert y.tolist() == (2 * x + 5).tolist()


def test_what_does_not_fit_is_refused_by_name(file: NativeFile) -> None:
    x, y = np.zeros(9, np.float32), np.zeros(9, np.float32)
    line = file.get("line", np.float32)
    for args, said in (
        ((x, y, LINE), "3 arguments for 4: x, y, line, which"),
        ((x.astype(float), y, LINE, 0), "argument x: dtype float64, declared float32"),
        ((x[:6], y, LINE, 0), r"argument x: shape \(6,\), where 9 numbers are due"),
    ):
        with pytest.raises(MinicnnError, match=f"^line<float>: {said}"):
            line.bind(args, {"x": 9, "y": 9})
    with pytest.raises(MinicnnError, match=r"no function line<int>; it offers line<f"):
        file.get("line", np.int32)


def test_arrays_live_as_long_as_a_bound_function(file: NativeFile) -> None:
    y = np.zeros(9, np.float32)
    work = file.get("line", np.float32).bind((np.ones(9, np.float32), y, LINE, 0), {})
    held = [np.full(9, 3, np.float32) for _ in range(100)]
    work(0, 9)
    assert y.tolist() == [7] * 9
    assert len(held) == 100


def test_an_op_runs_in_numpy_where_it_is_told_or_has_no_compiled_form() -> None:
    ran = []

    @op()
    def double(dev: device.Device, x: np.ndarray) -> Forms:
        def native() -> None:
            ran.append("native")

        def numpy() -> None:
            ran.append("numpy")

        return Forms(numpy, numpy, None if x.size == 1 else native)

    dev, plain = device.CpuDevice(1), device.CpuDevice(1)
    dev.native, plain.native = True, False
    double(dev, np.ones(2))
    double(dev, np.ones(1))
    double(plain, np.ones(2))
    assert ran == ["native", "numpy", "numpy"]


def check_numpy_runs(why: str) -> None:
    """Ops run in NumPy, and doctor says why."""
    dev = device.CpuDevice(1)
    assert environment.describe(dev)["native"] is dev.native is False
    finding = next(each for each in doctor.examine() if each.what == "cpu ops")
    assert finding.state == doctor.OPTIONAL
    assert why in finding.found


def test_it_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINICNN_NATIVE", "0")
    check_numpy_runs("MINICNN_NATIVE=0")


def test_without_a_compiler_ops_run_in_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = mock.Mock(side_effect=MinicnnError("no C++ compiler found; install g++"))
    monkeypatch.delenv("MINICNN_NATIVE", raising=False)
    monkeypatch.setattr(native, "compile_library", absent)
    native._failure.cache_clear()
    native._library.cache_clear()
    try:
        assert native.missing() == "no C++ compiler found; install g++"
        check_numpy_runs("install g++")
    finally:
        native._failure.cache_clear()
        native._library.cache_clear()
