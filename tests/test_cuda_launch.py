"""The launch wrapper on CUDA, with a stand-in for CuPy."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minicnn.cubins import cubin
from minicnn.errors import MinicnnError
from minicnn.launch import CudaLauncher, KernelFile
from tests.test_launch import arguments, kernel_file


@pytest.fixture
def file(tmp_path: Path) -> KernelFile:
    return kernel_file(tmp_path)


class Failure(Exception):
    """CuPy's driver error."""


class GpuArray(np.ndarray):
    """CuPy's array."""

    @property
    def data(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(ptr=self.ctypes.data)


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
            raise Failure("CUDA_ERROR_INVALID_VALUE: invalid argument")
        self.shared = size

    def __call__(self, grid: Any, block: Any, args: Any, *, shared_mem: int) -> None:
        if grid == (13, 1, 1):
            raise Failure("CUDA_ERROR_INVALID_VALUE: invalid argument")
        self.calls.append((grid, block, args, shared_mem))


class Nvrtc:
    """CuPy's binding of NVRTC, that knows one GPU.

    Attributes:
        compiled: the options and expressions of each compilation.
    """

    class NVRTCError(Exception): ...

    def __init__(self) -> None:
        self.compiled: list[Any] = []
        self.programs: dict[int, Any] = {}

    def getVersion(self) -> tuple[int, int]:
        return 12, 9

    def getSupportedArchs(self) -> tuple[int, ...]:
        return 80, 90

    def createProgram(
        self, text: str, name: str, headers: tuple[()], names: tuple[()]
    ) -> int:
        assert "#include" not in text
        number = len(self.programs) + 1
        self.programs[number] = text, []
        return number

    def destroyProgram(self, program: int) -> None:
        self.programs[program] = None

    def addNameExpression(self, program: int, name: str) -> None:
        self.programs[program][1].append(name)

    def compileProgram(self, program: int, options: tuple[str, ...]) -> None:
        text, names = self.programs[program]
        self.compiled.append((options, tuple(names)))
        if "broken" in text:
            raise self.NVRTCError("NVRTC_ERROR_COMPILATION (6)")

    def getProgramLog(self, program: int) -> str:
        return 'scale.cu(3): error: identifier "broken"\n'

    def getLoweredName(self, program: int, name: str) -> str:
        assert name in self.programs[program][1]
        return "_Z" + re.sub(r"\W+", "_", name)

    def getCUBIN(self, program: int) -> bytes:
        return repr(self.programs[program][1]).encode()


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

    class CompileException(Exception): ...

    class RawModule:
        def __init__(self, **options: Any) -> None:
            self.options, self.function = options, Function()
            fake.modules.append(self)

        def compile(self) -> None:
            if "broken" in self.options.get("code", ""):
                raise CompileException('scale.cu(3): error: identifier "broken"')
            if "path" in self.options and not Path(self.options["path"]).stat().st_size:
                raise Failure("CUDA_ERROR_INVALID_IMAGE")

        def get_function(self, name: str) -> Function:
            known = self.options.get("name_expressions")
            assert name in known if known else name.startswith("_Z")
            return self.function

    fake.ndarray, fake.RawModule = GpuArray, RawModule  # type: ignore[attr-defined]
    stream = SimpleNamespace(synchronize=lambda: fake.synchronised.append(True))
    fake.cuda = SimpleNamespace(  # type: ignore[attr-defined]
        Device=Device,
        nvrtc=Nvrtc(),
        compiler=SimpleNamespace(CompileException=CompileException),
        driver=SimpleNamespace(CUDADriverError=Failure),
        runtime=SimpleNamespace(CUDARuntimeError=Failure),
        get_current_stream=lambda: stream,
    )
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.delenv("MINICNN_DEBUG", raising=False)
    return fake


def test_cuda_compiles_a_group_once_and_launches(cupy: Any, file: KernelFile) -> None:
    dev = SimpleNamespace(launcher=CudaLauncher(1))
    arrays = {name: np.zeros(8, np.float32).view(GpuArray) for name in "xy"}
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
    assert not any(nvrtc.programs.values())  # each is destroyed
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
