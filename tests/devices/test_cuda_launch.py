"""The launch wrapper on CUDA, with a stand-in for CuPy."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minicnn.base.errors import MinicnnError
from minicnn.devices.cubins import cubin
from minicnn.devices.launch import CudaLauncher, KernelFile
from tests.devices.test_launch import arguments, kernel_file
from tests.support.cupy_stand_in import kernels
from tests.support.cupy_stand_in.arrays import ndarray
from tests.support.cupy_stand_in.kernels import CompileException, CUDADriverError
from tests.support.cupy_stand_in.streams import CUDARuntimeError


@pytest.fixture
def file(tmp_path: Path) -> KernelFile:
    return kernel_file(tmp_path)


class Function:
    """CuPy's RawKernel."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.shared = 48 * 1024

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        return self.shared

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        if size > 227 * 1024:
            raise CUDADriverError("CUDA_ERROR_INVALID_VALUE: invalid argument")
        self.shared = size

    def __call__(self, grid: Any, block: Any, args: Any, *, shared_mem: int) -> None:
        if grid == (13, 1, 1):
            raise CUDADriverError("CUDA_ERROR_INVALID_VALUE: invalid argument")
        self.calls.append((grid, block, args, shared_mem))


class Nvrtc(kernels.Nvrtc):
    """CuPy's binding of NVRTC, that only writes down what it is to compile.

    Attributes:
        compiled: the options and expressions of each compilation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.compiled: list[Any] = []

    def compileProgram(self, prog: int, options: tuple[str, ...]) -> None:
        program = self._programs[prog]
        assert "#include" not in program.text
        self.compiled.append((options, tuple(program.names)))
        if "broken" in program.text:
            program.log = 'scale.cu(3): error: identifier "broken"\n'
            raise self.NVRTCError("NVRTC_ERROR_COMPILATION (6)")


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A module that records what CuPy would be asked; and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fake = ModuleType("cupy")
    fake.modules, fake.synchronised = [], []  # type: ignore[attr-defined]

    class Device:
        compute_capability = "90"

        def __init__(self, index: int) -> None:
            assert index == 1

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    class RawModule:
        def __init__(self, **options: Any) -> None:
            self.options, self.function = options, Function()
            fake.modules.append(self)

        def compile(self) -> None:
            if "broken" in self.options.get("code", ""):
                raise CompileException('scale.cu(3): error: identifier "broken"')
            if "path" in self.options and not Path(self.options["path"]).stat().st_size:
                raise CUDADriverError("CUDA_ERROR_INVALID_IMAGE")

        def get_function(self, name: str) -> Function:
            known = self.options.get("name_expressions")
            assert name in known if known else name.startswith("_Z")
            return self.function

    fake.ndarray, fake.RawModule = ndarray, RawModule  # type: ignore[attr-defined]
    stream = SimpleNamespace(synchronize=lambda: fake.synchronised.append(True))
    fake.cuda = SimpleNamespace(  # type: ignore[attr-defined]
        Device=Device,
        nvrtc=Nvrtc(),
        compiler=SimpleNamespace(CompileException=CompileException),
        driver=SimpleNamespace(CUDADriverError=CUDADriverError),
        runtime=SimpleNamespace(CUDARuntimeError=CUDARuntimeError),
        get_current_stream=lambda: stream,
    )
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.delenv("MINICNN_DEBUG", raising=False)
    return fake


def test_cuda_compiles_a_group_once_and_launches(cupy: Any, file: KernelFile) -> None:
    dev = SimpleNamespace(launcher=CudaLauncher(1))
    arrays = {name: ndarray(8, np.float32) for name in "xy"}
    args = arguments(**arrays, flags=None)
    file.get("scale", np.float32, 16, True)(dev, 2, 32, args)
    file.get("scale", np.float32, 32, False)(dev, 2, 32, args, shared=100_000)
    (module,) = cupy.modules  # one compilation for both
    options, names = cupy.cuda.nvrtc.compiled.pop()
    assert names == ("scale<float, 16, true>", "scale<float, 32, false>")
    assert options == ("--std=c++17", "-ftz=true", "--gpu-architecture=sm_90")
    assert list(module.options) == ["path"]
    assert not cupy.cuda.nvrtc.compiled
    grid, block, given, shared = module.function.calls[1]
    assert (grid, block, shared) == ((2, 1, 1), (32, 1, 1), 100_000)
    assert module.function.max_dynamic_shared_size_bytes == 100_000
    assert given[0] is args[0]
    assert (type(given[3]), type(given[5]), given[5]) == (np.float32, np.uint64, 0)
    assert given[6].shape == ()
    assert given[6].nbytes == 20  # CuPy passes a one-element array's bytes by value
    assert not cupy.synchronised
    args[0] = args[0][2:]
    with pytest.raises(MinicnnError, match="x: begins 8 bytes past a multiple of 16"):
        file.get("scale", np.float32, 16, True)(dev, 2, 32, args)


def test_cuda_finds_what_another_process_compiled(cupy: Any, file: KernelFile) -> None:
    nvrtc, source = cupy.cuda.nvrtc, file.source
    assert not CudaLauncher(1).compile(source, "float")
    assert CudaLauncher(1).compile(source, "float")
    first = cubin(nvrtc, source, "float", "90")
    assert first
    assert first.names["scale<float, 32, false>"] == "_Zscale_float_32_false_"
    assert len(nvrtc.compiled) == 1
    assert not nvrtc._programs  # each is destroyed
    # Another GPU, NVRTC, text or group is other code.
    assert not cubin(nvrtc, source, "float", "80").cached
    assert not cubin(nvrtc, source, "double", "90").cached
    newer = dataclasses.replace(source, text=source.text + "\n")
    assert not cubin(nvrtc, newer, "float", "90").cached
    nvrtc.getVersion = lambda: (13, 0)
    assert not cubin(nvrtc, source, "float", "90").cached
    assert len(nvrtc.compiled) == 5
    del nvrtc.getVersion
    # What is torn, changed or half gone is compiled anew.
    whole = first.path.read_bytes()
    for harm in (
        lambda: first.path.write_bytes(whole[:-1]),
        lambda: first.path.unlink(),
        lambda: first.path.with_suffix(".json").write_text("{"),
    ):
        harm()
        again = cubin(nvrtc, source, "float", "90")
        assert not again.cached
        assert (again.path.read_bytes(), again.names) == (whole, first.names)


def test_cuda_leaves_a_gpu_that_nvrtc_does_not_know_to_cupy(
    cupy: Any, file: KernelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cupy.cuda.Device, "compute_capability", "130")
    dev = SimpleNamespace(launcher=CudaLauncher(1))
    assert not dev.launcher.compile(file.source, "")
    file.get("plain")(dev, 1, 1, (1, True))
    (module,) = cupy.modules
    assert module.options["name_expressions"] == ("plain",)
    assert module.options["options"] == ("--std=c++17",)
    assert not cupy.cuda.nvrtc.compiled
    text = file.source.text.replace("plain(", "plain(broken ")
    other = dataclasses.replace(file.source, path=Path("other.cu"), text=text)
    with pytest.raises(MinicnnError, match=r"other.cu: NVRTC: .* error: identifier"):
        CudaLauncher(1).build(other, "")


def test_code_that_the_driver_refuses_is_one_clear_error(
    cupy: Any, file: KernelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cupy.cuda.nvrtc, "getCUBIN", lambda program: b"")
    with pytest.raises(MinicnnError, match=r"^scale.cu: the driver .*CUDA_ERROR_INV"):
        CudaLauncher(1).build(file.source, "float")


def test_cuda_debugging_synchronises(
    cupy: Any, file: KernelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINICNN_DEBUG", "1")
    file.get("plain")(SimpleNamespace(launcher=CudaLauncher(1)), 1, 1, (1, True))
    assert cupy.synchronised == [True]


def test_cuda_failures_are_one_clear_error(
    cupy: Any, file: KernelFile, tmp_path: Path
) -> None:
    dev = SimpleNamespace(launcher=CudaLauncher(1))
    with pytest.raises(
        MinicnnError, match=r"^plain: grid \(13, 1, 1\).*CUDA_ERROR_INV"
    ):
        file.get("plain")(dev, 13, 1, (1, True))
    with pytest.raises(MinicnnError, match=r"^plain: .*, 300000 bytes of shared mem"):
        file.get("plain")(dev, 1, 1, (1, True), shared=300_000)
    broken = tmp_path / "broken.cu"
    broken.write_text("__global__ void f() { broken; }")
    with pytest.raises(MinicnnError, match=r"^broken.cu: NVRTC: scale.cu\(3\): error"):
        KernelFile(broken).get("f")(dev, 1, 1, ())
