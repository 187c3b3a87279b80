"""Compiling and launching on CUDA: by CuPy itself up to the load, then a stand-in."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest

from minicnn.base.errors import MinicnnError
from minicnn.compile.kernel_source import FOLDER
from minicnn.devices import cuda, nvrtc
from minicnn.devices.cuda import CudaDevice, CudaLauncher
from minicnn.devices.launch import KernelFile
from tests.devices.test_launch import arguments, kernel_file
from tests.support import cupy_stand_in
from tests.support.cupy_stand_in import kernels
from tests.support.helpers import needs_nvrtc


@pytest.fixture
def file(tmp_path: Path) -> KernelFile:
    return kernel_file(tmp_path)


# --- by CuPy itself -----------------------------------------------------------------


@needs_nvrtc
def test_cupy_compiles_what_the_reports_are_of(
    file: KernelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cupy
    from cupy._core import raw
    from cupy.cuda import compiler, function

    given: list[Any] = []
    loaded: list[Any] = []

    class Program(compiler._NVRTCProgram):
        def compile(self, options: Any = (), log_stream: Any = None) -> Any:
            given.append((self.src, options))
            return super().compile(options, log_stream)

    class Module(function.Module):
        def load(self, cubin: bytes) -> None:
            loaded.append(self)

    # There is no GPU to ask, nor to load to.
    gpu = mock.MagicMock(compute_capability="90")
    monkeypatch.setattr(cupy.cuda, "Device", lambda index: gpu)
    monkeypatch.setattr(compiler, "device", mock.Mock(Device=lambda: gpu))
    monkeypatch.setattr(compiler, "function", mock.Mock(Module=Module))
    monkeypatch.setattr(compiler, "_NVRTCProgram", Program)
    monkeypatch.setenv("CUPY_CACHE_IN_MEMORY", "1")
    for place, name in (
        (raw, "_get_raw_module"),
        (compiler, "_get_arch"),
        (compiler, "_get_arch_for_options_for_nvrtc"),
    ):  # remembered for each GPU, so they ask for the current one
        monkeypatch.setattr(place, name, getattr(place, name).__wrapped__)
    CudaLauncher().build(file.source, "float")
    text, options = given[-1]
    assert text == file.source.text
    expected = {*cuda.OPTIONS, *nvrtc.CUPYS_OPTIONS, "-arch=sm_90"}
    assert {each for each in options if not each.startswith("-I")} == expected
    assert set(loaded[0].mapping) == set(file.source.group("float"))


# --- GPUs and compilers -------------------------------------------------------------


def gpu(arch: int, version: tuple[int, int], *known: int) -> tuple[Any, str, Any]:
    """What `check_compiler` takes: an NVRTC, and a GPU."""
    compiler = SimpleNamespace(
        getVersion=lambda: version, getSupportedArchs=lambda: known
    )
    about = {"name": b"RTX", "major": arch // 10, "minor": arch % 10}
    return SimpleNamespace(cuda=SimpleNamespace(nvrtc=compiler)), "cuda:1", about


OLD, NEW = (50, 75, 80, 86, 89, 90), (75, 80, 86, 89, 90, 100, 103, 110, 120, 121)


@pytest.mark.parametrize(
    ("arch", "version", "known", "said"),
    [
        (120, (12, 4), OLD, r"12.4 .*, 12.8 or later .*nvidia-cuda-nvrtc-cu12>=12.8'"),
        (103, (12, 8), (*OLD, 100, 120), r"12.9 or later .*nvrtc-cu12>=12.9'"),
        (110, (12, 9), (*OLD, 100, 121), r"13.0 .*uninst.*-cuda12x; .*cupy-cuda13x"),
        (130, (13, 0), NEW, r"13.0 makes no code .*--upgrade 'cupy-cuda13x"),
        (70, (13, 0), NEW, r"one before 13 does: .*-cuda13x; .*cupy-cuda12x"),
    ],
)
def test_a_gpu_that_nvrtc_makes_no_code_for_is_refused(
    arch: int, version: tuple[int, int], known: tuple[int, ...], said: str
) -> None:
    with pytest.raises(
        MinicnnError, match=f"^--device cuda:1: RTX is of sm_{arch}; NVRTC .*{said}"
    ):
        cuda.check_compiler(*gpu(arch, version, *known))


@pytest.mark.parametrize("arch", [75, 80, 86, 89, 90, 100, 120, 121])
def test_gpus_of_a_known_kind_are_accepted(arch: int) -> None:
    cuda.check_compiler(*gpu(arch, (12, 8), *OLD, 100, 101, 120))


def test_an_absent_nvrtc_is_one_clear_error() -> None:
    def absent() -> None:
        raise RuntimeError('Failure finding "libnvrtc.so.12":\nno such file')

    cupy, name, about = gpu(90, (12, 8))
    cupy.cuda.nvrtc.getVersion = absent
    with pytest.raises(
        MinicnnError, match=r"no NVRTC, .*so.12\": no such.*pip install"
    ):
        cuda.check_compiler(cupy, name, about)


# --- launches, on the stand-in ------------------------------------------------------


@pytest.fixture
def fake(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stand-in, whose kernels are neither compiled nor run: `calls` has them."""
    cupy.calls, cupy.compiled = [], []
    monkeypatch.setattr(
        kernels.RawModule, "compile", lambda self: cupy.compiled.append(self)
    )
    monkeypatch.setattr(
        kernels.RawKernel, "__call__", lambda *call, **more: cupy.calls.append(call)
    )
    return cupy


def test_a_new_gpu_is_refused_before_anything_is_asked_of_it(
    fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cupy_stand_in.PROPERTIES, "major", 13)
    monkeypatch.delattr(fake, "empty")
    with pytest.raises(MinicnnError, match=r"sm_130; NVRTC 13.0 makes no code"):
        CudaDevice()


def test_cuda_compiles_a_group_once_and_launches(fake: Any, file: KernelFile) -> None:
    dev = CudaDevice()
    args = arguments(x=fake.empty(8, np.float32), y=fake.empty(8, "f4"), flags=None)
    file.get("scale", np.float32, 16, True)(dev, 2, 32, args)
    file.get("scale", np.float32, 32, False)(dev, 2, 32, args, shared=100_000)
    assert len({id(module) for module in fake.compiled}) == 1
    (small, grid, block, given), (large, *_) = fake.calls
    assert (grid, block) == ((2, 1, 1), (32, 1, 1))
    assert given[0] is args[0]
    assert (type(given[3]), type(given[5]), given[5]) == (np.float32, np.uint64, 0)
    assert given[6].shape == ()
    assert given[6].nbytes == 20  # CuPy passes a one-element array's bytes by value
    # Shared memory is asked for where a block takes more than it has.
    assert small.max_dynamic_shared_size_bytes == kernels.UNASKED
    assert large.max_dynamic_shared_size_bytes == 100_000
    args[0] = args[0][2:]
    with pytest.raises(MinicnnError, match="x: begins 8 bytes past a multiple of 16"):
        file.get("scale", np.float32, 16, True)(dev, 2, 32, args)
    with pytest.raises(MinicnnError, match=r"^plain: grid .*, 300000 bytes of shared"):
        file.get("plain")(dev, 1, 1, (1, True), shared=300_000)


@pytest.mark.parametrize(
    ("text", "shared", "percent"),
    [
        ("", 40_000, -1),
        ("", 100_000, -1),
        ("void cp_async_commit();\n", 0, -1),
        ("void cp_async_commit();\n", 40_000, 100),
    ],
)
def test_kernels_that_copy_past_the_cache_leave_it_to_shared_memory(
    text: str, shared: int, percent: int, fake: Any, file: KernelFile
) -> None:
    file.path.write_text(text + file.path.read_text())
    file.get("plain")(CudaDevice(), 1, 1, (1, True), shared=shared)
    [(function, *_)] = fake.calls
    assert function.preferred_shared_memory_carveout == percent


def test_conv_alone_copies_past_the_cache() -> None:
    texts = {path.name: KernelFile(path).source.text for path in FOLDER.glob("*.cu")}
    found = [name for name, text in texts.items() if cuda.PAST_CACHE in text]
    assert found == ["conv.cu"]


def test_a_first_launch_compiles_its_group_of_every_file(
    fake: Any,
    file: KernelFile,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = file.path.parent
    (folder / "other.cu").write_text("__global__ void other() {}")
    (folder / "wrong.cu").write_text("__global__ int wrong() {}")
    monkeypatch.setattr(cuda, "FOLDER", folder)
    monkeypatch.setattr(cuda, "PATIENCE", -1.0)
    file.get("plain")(CudaDevice(), 1, 1, (1, True))
    built = {module._source.path.name for module in fake.compiled}
    assert built == {"scale.cu", "other.cu"}
    assert "compiling the kernels once: 0 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("read-only"), "CuPy cannot keep .* read-only; .* CUPY_CACHE_DIR="),
        (kernels.CUDADriverError("PTX_VERSION"), "the driver does not .* PTX_VERSION;"),
        (kernels.CompileException("\n(3): no\n\0"), r"NVRTC: \(3\): no$"),
        (RuntimeError("no headers"), "CuPy does not compile it: no headers"),
    ],
)
def test_code_that_is_not_loaded_is_one_clear_error(
    error: Exception,
    said: str,
    fake: Any,
    file: KernelFile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels.RawModule, "compile", mock.Mock(side_effect=error))
    with pytest.raises(MinicnnError, match=f"^scale.cu: {said}"):
        CudaLauncher().build(file.source, "float")


def test_gpus_before_ampere_are_refused_by_what_they_lack(
    fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake.cuda.Device, "compute_capability", "75")
    conv, launcher = KernelFile("conv.cu").source, CudaLauncher()
    launcher.build(conv, "float")
    with pytest.raises(MinicnnError, match="from sm_80 on, this one is sm_75; choose"):
        launcher.build(conv, "bf16")


def test_cuda_debugging_synchronises(
    fake: Any, file: KernelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINICNN_DEBUG", "1")
    dev, waited = CudaDevice(), []
    stream = SimpleNamespace(synchronize=lambda: waited.append(True))
    monkeypatch.setattr(fake.cuda, "get_current_stream", lambda: stream)
    file.get("plain")(dev, 1, 1, (1, True))
    assert waited == [True]
