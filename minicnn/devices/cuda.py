"""The cuda device: one GPU through CuPy, which compiles and loads the kernels, too."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from minicnn.base.cores import available_cores
from minicnn.base.errors import MinicnnError
from minicnn.base.progress import Progress
from minicnn.compile.kernel_source import FOLDER, KernelSource
from minicnn.devices.launch import JOBS, Kernel, debugging
from minicnn.devices.protocol import Device, Work
from minicnn.devices.recording import capture
from minicnn.devices.uploads import Uploads

if TYPE_CHECKING:
    from minicnn.devices.meter import Meter

OPTIONS = ("--std=c++17",)
"""Options for NVRTC. CuPy adds -ftz=true: subnormal floats are zero."""

AMPERE = 80
"""Compute capability from which GPUs have bfloat16, TF32 and asynchronous copies."""

# The first NVRTC that compiles for a compute capability, where not all of CUDA 12 do.
FIRST_NVRTC = {100: "12.8", 103: "12.9", 120: "12.8", 121: "12.9"}

# Shared memory of a block that needs no request, in bytes.
UNASKED = 48 << 10

# Text of kernels whose copies to shared memory bypass the first-level cache.
PAST_CACHE = "cp_async_commit();"

# Seconds of compiling after which a line says so.
PATIENCE = 2.0


def cuda_count() -> int:
    """How many CUDA GPUs answer; 0 without CuPy. That CuPy imports proves nothing."""
    try:
        import cupy

        return cupy.cuda.runtime.getDeviceCount()
    except Exception:  # a missing driver shows as any of a dozen exceptions
        return 0


def check_compiler(cupy: Any, name: str, about: dict[str, Any]) -> None:
    """Refuses a GPU that NVRTC makes no code for; CuPy's own kernels need it, too.

    Code runs on GPUs of its compute capability's major number, and of no smaller minor
    one. CuPy asks for the GPU's own, or the largest that NVRTC knows.

    Raises:
        MinicnnError: NVRTC is absent or too old, or too new for the GPU.
    """
    try:
        nvrtc = cupy.cuda.nvrtc
        version, known = nvrtc.getVersion(), nvrtc.getSupportedArchs()
    except RuntimeError as error:
        said = " ".join(str(error).split())[:200]
        raise MinicnnError(
            f"--device {name}: CuPy finds no NVRTC, its compiler ({said}); "
            "pip install 'cupy-cuda12x[ctk]', or 'cupy-cuda13x[ctk]' with that CuPy"
        ) from None
    arch = 10 * about["major"] + about["minor"]
    target = min(arch, max(known))
    if target in known and target // 10 == arch // 10:
        return
    first = FIRST_NVRTC.get(arch, "13.0")
    takes = f"{first} or later"
    mend = "pip uninstall --yes cupy-cuda12x; pip install --upgrade 'cupy-cuda13x[ctk]'"
    if arch < min(known):
        takes = f"one before {version[0]}"
        mend = "pip uninstall --yes cupy-cuda13x; pip install 'cupy-cuda12x[ctk]'"
    elif version[0] == 12 and first.startswith("12."):
        mend = f"pip install --upgrade 'nvidia-cuda-nvrtc-cu12>={first}'"
    raise MinicnnError(
        f"--device {name}: {about['name'].decode()} is of sm_{arch}; NVRTC "
        f"{'.'.join(map(str, version))} makes no code for it, {takes} does: {mend}"
    )


class CudaDevice(Device):
    """CuPy arrays on one GPU, and the CUDA kernels.

    Raises:
        MinicnnError: CuPy is not installed, no such GPU answers, or NVRTC is absent or
            makes no code for it.
    """

    has_kernels = True
    on_gpu = True

    def __init__(self, index: int = 0, threads: int | None = None) -> None:
        super().__init__(threads)
        count = cuda_count()
        if index >= count:
            raise MinicnnError(
                f"--device cuda:{index}: {count} CUDA GPUs answer here; 'minicnn "
                "doctor' says what is missing; --device cpu and emulated need none"
            )
        import cupy

        self.name = f"cuda:{index}" if index else "cuda"
        self._cupy, self._device = cupy, cupy.cuda.Device(index)
        self._device.use()
        about = cupy.cuda.runtime.getDeviceProperties(index)
        check_compiler(cupy, self.name, about)
        self.shared_bytes = about["sharedMemPerBlockOptin"]
        self.launcher = CudaLauncher(index)
        self._copies = Uploads(cupy, self)

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
        try:
            return self._cupy.empty(shape, dtype)
        except self._cupy.cuda.memory.OutOfMemoryError:
            need = int(np.prod(shape)) * np.dtype(dtype).itemsize
            raise MinicnnError(
                f"--device {self.name}: {need / 1e9:.2f} GB of memory wanted, "
                f"{self.free_bytes() / 1e9:.2f} GB free; lower solver.batch, or stop "
                "other programs on that GPU"
            ) from None

    def from_host(self, array: NDArray[Any]) -> Any:
        """A NumPy array, copied to the GPU, in C order as kernels need it.

        By way of pinned memory that is CuPy's, so that nothing waits for the GPU.
        """
        return self._cupy.asarray(array, order="C")

    def to_host(self, array: Any) -> NDArray[Any]:
        return self._cupy.asnumpy(array)

    def host_empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """A host array of unspecified content in pinned memory."""
        import cupyx

        return cupyx.empty_pinned(shape, dtype)

    def streamed(self, array: NDArray[Any]) -> AbstractContextManager[Any]:
        """See `Device`; the host waits for the copy, not for earlier work."""
        return self._copies.streamed(array)

    def has_room(self, size: int) -> bool:
        return size <= self.free_bytes() // 2

    def record(self, work: Work) -> Work | None:
        """Runs the work, captured as a CUDA graph; the graph's launch.

        None when debugging, where every launch is waited for.
        """
        if debugging():
            work()
            return None
        with self._device:
            launch = capture(self._cupy, self, work)
        launch()
        return launch

    def synchronize(self) -> None:
        self._device.synchronize()

    def free_bytes(self) -> int:
        pool = self._cupy.get_default_memory_pool()
        return self._device.mem_info[0] + pool.free_bytes()

    def details(self) -> dict[str, Any]:
        """The GPU and its software; versions are 1000 · major + 10 · minor."""
        runtime = self._cupy.cuda.runtime
        about = runtime.getDeviceProperties(self._device.id)
        return {
            "gpu": about["name"].decode(),
            "gpu_bytes": about["totalGlobalMem"],
            "multiprocessors": about["multiProcessorCount"],
            "compute_capability": f"{about['major']}.{about['minor']}",
            "cuda_driver": runtime.driverGetVersion(),
            "cuda_runtime": runtime.runtimeGetVersion(),
            "cupy": self._cupy.__version__,
        }

    def meter(self) -> Meter:
        from minicnn.devices.meter import CudaMeter

        return CudaMeter(self._cupy, self._device)


class CudaLauncher:
    """Launches on a CUDA device through CuPy.

    CuPy compiles with NVRTC, a module for each group of a file's instances, keeps the
    machine code in its own cache (CUPY_CACHE_DIR, else ~/.cupy/kernel_cache) and loads
    it.
    """

    def __init__(self, index: int = 0) -> None:
        import cupy

        self._cupy = cupy
        self._modules: dict[tuple[Path, str], Any] = {}
        # Each with the dynamic shared memory that it has been granted, in bytes.
        self._functions: dict[tuple[Path, str], tuple[Any, int]] = {}
        self._arch = int(cupy.cuda.Device(index).compute_capability)
        self.index = index
        self.array = cupy.ndarray

    def build(self, source: KernelSource, group: str) -> None:
        """Compiles the group for this device, or finds it in CuPy's cache; loads it.

        Raises:
            MinicnnError: with the compiler's message, file and line; the GPU lacks what
                the kernels need; or the driver refuses the code.
        """
        names, file = source.group(group), source.path.name
        if (source.path, group) in self._modules or not names:
            return
        if self._arch < AMPERE and group in ("bf16", "tf32", "tf32x3"):
            raise MinicnnError(
                f"{file}: its kernels for {group} need a GPU from sm_{AMPERE} on, this "
                f"one is sm_{self._arch}; choose --precision fp32 or fp64, or --device "
                "cpu"
            )
        cuda = self._cupy.cuda
        module = self._cupy.RawModule(
            code=source.text, options=OPTIONS, name_expressions=names
        )
        try:
            with cuda.Device(self.index):
                module.compile()
        except cuda.compiler.CompileException as error:
            reason = "NVRTC: " + str(error).strip("\0\n ")
        except OSError as error:
            reason = (
                f"CuPy cannot keep its machine code: {error}; name a folder for it: "
                "export CUPY_CACHE_DIR=FOLDER"
            )
        except cuda.driver.CUDADriverError as error:
            reason = (
                f"the driver does not load it: {error}; 'minicnn doctor' says whether "
                "it is older than NVRTC"
            )
        except RuntimeError as error:  # CuPy finds no headers of CUDA
            reason = f"CuPy does not compile it: {error}"
        else:
            self._modules[source.path, group] = module
            return
        raise MinicnnError(f"{file}: {reason}")

    def _build_beside(self, source: KernelSource, group: str) -> None:
        """Builds that group of every kernel file, for a step needs most of them.

        Of a file that fails, nothing is said until one of its kernels is launched.
        """
        files = sorted(FOLDER.glob("*.cu")) if source.path.parent == FOLDER else []
        began, label = time.monotonic(), "compiling the kernels once"

        def attempt(path: Path) -> None:
            with suppress(MinicnnError):
                self.build(KernelSource.read(path), group)

        with (
            Progress(len(files), "files", label, passing=True) as progress,
            ThreadPoolExecutor(min(available_cores(), JOBS)) as pool,
        ):
            for _ in pool.map(attempt, files):
                progress.update(1)
            if (seconds := time.monotonic() - began) > PATIENCE:
                progress.message(f"{label}: {seconds:.0f} s")

    def _function(self, kernel: Kernel, shared: int) -> Any:
        """The kernel on the GPU, with that much dynamic shared memory granted."""
        path, group = kernel.source.path, kernel.instance.group
        function, granted = self._functions.get((path, kernel.name), (None, 0))
        if function is None:
            if (path, group) not in self._modules:
                self._build_beside(kernel.source, group)
                self.build(kernel.source, group)
            function = self._modules[path, group].get_function(kernel.name)
        elif shared <= granted:
            return function
        if shared > UNASKED:
            function.max_dynamic_shared_size_bytes = shared
        # Per cent of the first-level cache that becomes shared memory: by itself the
        # driver may leave room for fewer blocks than fit. Kernels that copy past that
        # cache lose nothing by it; others, such as LRN's, read numbers again from it,
        # and their few sums in shared memory are no reason to take it away.
        if shared and PAST_CACHE in kernel.source.text:
            function.preferred_shared_memory_carveout = 100
        self._functions[path, kernel.name] = function, shared
        return function

    def launch(
        self,
        kernel: Kernel,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        values: list[Any],
        shared: int,
    ) -> None:
        """See `EmulatedLauncher`; asynchronous, on CuPy's current stream."""
        cuda = self._cupy.cuda
        # None is a null pointer: CuPy would pass no argument at all.
        args = tuple(np.uint64(0) if value is None else value for value in values)
        try:
            with cuda.Device(self.index):
                self._function(kernel, shared)(grid, block, args, shared_mem=shared)
                if debugging():
                    cuda.get_current_stream().synchronize()
        except (cuda.driver.CUDADriverError, cuda.runtime.CUDARuntimeError) as error:
            raise MinicnnError(
                f"{kernel.name}: grid {grid}, block {block}, {shared} bytes of shared "
                f"memory: {error}"
            ) from None
