"""Where the arithmetic runs: the array module, its buffers and its threads.

One place decides: `get`. Everything else is handed a Device and asks it nothing but
what it offers.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from minicnn.base.cores import available_cores, memory_bytes
from minicnn.base.errors import MinicnnError
from minicnn.base.threads import HostThreads
from minicnn.devices.aligned import aligned

if TYPE_CHECKING:
    from minicnn.experiments.bench.roofline import Meter

# Threads that are allowed on few cores too.
MOST_THREADS = 16
NAMES = ("auto", "cpu", "cuda", "emulated")


class AnyDevice(HostThreads):
    """What all devices share.

    Attributes:
        generation: how often buffers were let go that recorded work may refer to.
        native: whether ops run in their compiled forms, where they have no kernels.
        on_host: whether its arrays are the host's, and host memory needs no copy.
        shared_bytes: that a kernel's block may have of shared memory, if it asks; an
            H100's, unless the device has another limit.
    """

    generation = 0
    native = False
    on_host = False
    shared_bytes = 227 << 10

    def let_go(self) -> None:
        """Is told of buffers that are let go: see `recording.Repeated`."""
        self.generation += 1

    def details(self) -> dict[str, Any]:
        """What else a record of a run says of the device."""
        return {}


class CpuDevice(AnyDevice):
    """NumPy, with the batch cut into chunks that run on threads.

    Each chunk calls BLAS on one thread: the work on an image then stays in one core's
    cache from the im2col matrix to the bias, and the chunks, hence the order of every
    sum, depend on the problem alone. So results do not depend on the thread count.
    """

    name = "cpu"
    has_kernels = False
    on_host = True
    launcher: Any = None

    def __init__(self, threads: int | None = None) -> None:
        super().__init__(threads)
        self._local = threading.local()

    @functools.cached_property
    def native(self) -> bool:  # type: ignore[override]
        """Whether ops run in their compiled forms; may be set to False."""
        from minicnn.compile import native

        return not native.missing()

    def details(self) -> dict[str, Any]:
        """Whether ops run in their compiled forms."""
        return {"native": self.native}

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array of unspecified content."""
        return aligned(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array of zeros."""
        # np.zeros would take the memory only when it is written to.
        array = aligned(shape, dtype)
        array.fill(0)
        return array

    def from_host(self, array: NDArray[Any]) -> NDArray[Any]:
        """A NumPy array as an array of this device (here: itself)."""
        return array

    def to_host(self, array: NDArray[Any]) -> NDArray[Any]:
        """An array of this device as a NumPy array (here: itself); waits for it."""
        return array

    def host_empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """A host array of unspecified content, that copies here begin from."""
        return np.empty(shape, dtype)

    def upload(self, slot: str, array: NDArray[Any]) -> NDArray[Any]:
        """A host array on this device, until the slot's next upload (here: itself)."""
        return array

    @contextmanager
    def streamed(self, slot: str, array: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """A host array on this device for a block's length, free to change in it.

        For large arrays: where that helps, they are copied beside earlier work.
        """
        yield self.upload(slot, array)

    def has_room(self, size: int) -> bool:
        """Whether so many bytes of images are to be held: not more than half."""
        # A control group's limit holds for the pages of files, too.
        free, most = self.free_bytes(), memory_bytes()
        return size <= (most if free is None else min(free, most)) // 2

    def record(self, work: Callable[[], object]) -> Callable[[], object] | None:
        """Runs the work; what repeats it on the same arrays, or None (here)."""
        work()
        return None

    def scratch(
        self, key: str, shape: tuple[int, ...], dtype: DTypeLike
    ) -> NDArray[Any]:
        """This thread's reused buffer of that name, of unspecified content."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        held = getattr(self._local, key, None)
        if held is None or held.nbytes < size:
            held = aligned((size,), np.uint8)
            setattr(self._local, key, held)
            self.let_go()
        return held[:size].view(dtype).reshape(shape)

    def synchronize(self) -> None:
        """Waits until all work is done (here: it always is)."""

    def free_bytes(self) -> int | None:
        """Memory left for new buffers, or None where the system does not say."""
        try:
            with open("/proc/meminfo", encoding="ascii") as file:
                lines = dict(line.split(":") for line in file)
            return int(lines["MemAvailable"].split()[0]) * 1024
        except (OSError, KeyError, ValueError):
            return None

    def meter(self) -> Meter:
        """What times work on this device."""
        from minicnn.experiments.bench.roofline import HostMeter

        return HostMeter(self)


class EmulatedDevice(CpuDevice):
    """NumPy arrays, and the CUDA kernels themselves, run on the CPU.

    For tests, teaching and debugging: see docs/emulator.md. With MINICNN_DEBUG set,
    new buffers hold NaN, so that a kernel that leaves a number unwritten shows. With
    another `shared_bytes` it plans its launches as a smaller card would.
    """

    name = "emulated"
    has_kernels = True
    on_host = False
    native = False

    def __init__(self, threads: int | None = None) -> None:
        from minicnn.compile.emulator import EmulatedLauncher

        super().__init__(threads)
        self.launcher: Any = EmulatedLauncher(workers=self.threads)
        self._uploads: dict[Any, NDArray[Any]] = {}

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array of unspecified content; of NaN bits when debugging."""
        from minicnn.compile.emulator import poisoned
        from minicnn.devices.launch import debugging

        return poisoned(shape, dtype) if debugging() else super().empty(shape, dtype)

    def from_host(self, array: NDArray[Any]) -> NDArray[Any]:
        """A NumPy array as an array of this device: a copy where kernels need one."""
        from minicnn.compile.arguments import ALIGNMENT

        aligned = self.launcher.address(array) % ALIGNMENT == 0
        return array if aligned and array.flags.c_contiguous else array.copy()

    def upload(self, slot: str, array: NDArray[Any]) -> NDArray[Any]:
        """A host array in the device's buffer of that name and shape."""
        key = slot, array.shape, array.dtype
        if key not in self._uploads:
            self._uploads[key] = self.empty(array.shape, array.dtype)
        self._uploads[key][...] = array
        return self._uploads[key]

    def record(self, work: Callable[[], object]) -> Callable[[], object]:
        """Runs the work; what repeats its launches on the same arrays."""
        from minicnn.devices.recording import replay

        return replay(self, work)

    def scratch(
        self, key: str, shape: tuple[int, ...], dtype: DTypeLike
    ) -> NDArray[Any]:
        """This thread's reused buffer of that name, of unspecified content.

        Under the sanitizers a new one, so that they see where it ends.
        """
        from minicnn.compile.host_compiler import sanitizing

        if sanitizing():
            return self.empty(shape, dtype)
        return super().scratch(key, shape, dtype)


class CudaDevice(AnyDevice):
    """CuPy arrays on one GPU, and the CUDA kernels.

    Args:
        index: which GPU.
        threads: host threads, for what is done on the host.

    Raises:
        MinicnnError: CuPy is not installed, or no such GPU answers.
    """

    has_kernels = True

    def __init__(self, index: int = 0, threads: int | None = None) -> None:
        super().__init__(threads)
        count = cuda_count()
        if index >= count:
            raise MinicnnError(
                f"--device cuda:{index}: {count} CUDA GPUs answer here; 'minicnn "
                "doctor' says what is missing; --device cpu and emulated need none"
            )
        import cupy

        from minicnn.devices.launch import CudaLauncher
        from minicnn.devices.uploads import Uploads

        self.name = f"cuda:{index}" if index else "cuda"
        self._cupy, self._device = cupy, cupy.cuda.Device(index)
        self._device.use()
        about = cupy.cuda.runtime.getDeviceProperties(index)
        self.shared_bytes = about["sharedMemPerBlockOptin"]
        self.launcher: Any = CudaLauncher(index)
        self._held: dict[str, Any] = {}
        self._uploads = Uploads(cupy, self)

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
        """An array of unspecified content on the GPU.

        Raises:
            MinicnnError: the GPU's memory is full.
        """
        try:
            return self._cupy.empty(shape, dtype)
        except self._cupy.cuda.memory.OutOfMemoryError:
            need = int(np.prod(shape)) * np.dtype(dtype).itemsize
            raise MinicnnError(
                f"--device {self.name}: {need / 1e9:.2f} GB of memory wanted, "
                f"{self.free_bytes() / 1e9:.2f} GB free; lower solver.batch, or stop "
                "other programs on that GPU"
            ) from None

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
        """An array of zeros on the GPU; raises as `empty` does."""
        array = self.empty(shape, dtype)
        array.fill(0)
        return array

    def from_host(self, array: NDArray[Any]) -> Any:
        """A NumPy array, copied to the GPU, in C order as kernels need it."""
        return self._cupy.asarray(array, order="C")

    def to_host(self, array: Any) -> NDArray[Any]:
        """An array of the GPU, copied to the host; waits for it."""
        return self._cupy.asnumpy(array)

    def host_empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """A host array of unspecified content in pinned memory."""
        import cupyx

        return cupyx.empty_pinned(shape, dtype)

    def upload(self, slot: str, array: NDArray[Any]) -> Any:
        """A small host array in the GPU's buffer of that name; does not wait."""
        return self._uploads.small(slot, array)

    def streamed(self, slot: str, array: NDArray[Any]) -> AbstractContextManager[Any]:
        """A large host array on the GPU for a block's length, free to change in it.

        It is copied while earlier work runs, best from `host_empty`; the host waits
        for the copy, not for the work.
        """
        return self._uploads.large(slot, array)

    def has_room(self, size: int) -> bool:
        """Whether so many bytes of images are to be held: not more than half."""
        return size <= self.free_bytes() // 2

    def record(self, work: Callable[[], object]) -> Callable[[], object] | None:
        """Runs the work, captured as a CUDA graph; the graph's launch.

        None when debugging, where every launch is waited for.
        """
        from minicnn.devices.launch import debugging
        from minicnn.devices.recording import Graph

        if debugging():
            work()
            return None
        with self._device:
            graph = Graph(self._cupy, self, work)
        graph.launch()
        return graph.launch

    def scratch(self, key: str, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
        """The reused buffer of that name, of unspecified content."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        held = self._held.get(key)
        if held is None or held.nbytes < size:
            held = self._held[key] = self.empty((size,), np.uint8)
            self.let_go()
        return held[:size].view(dtype).reshape(shape)

    def synchronize(self) -> None:
        """Waits until all work on the GPU is done."""
        self._device.synchronize()

    def free_bytes(self) -> int:
        """Memory of the GPU that new buffers can have."""
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
        """What times work on this device."""
        from minicnn.experiments.bench.roofline import CudaMeter

        return CudaMeter(self._cupy, self._device)


Device = CpuDevice | EmulatedDevice | CudaDevice


def cuda_count() -> int:
    """How many CUDA GPUs answer; 0 without CuPy. That CuPy imports proves nothing."""
    try:
        import cupy

        return cupy.cuda.runtime.getDeviceCount()
    except Exception:  # a missing driver shows as any of a dozen exceptions
        return 0


def get(name: str = "auto", threads: int | None = None) -> Device:
    """The device of that name.

    Args:
        name: "cpu", "cuda", "cuda:N", "emulated"; "auto" takes a GPU where one
            answers, else the CPU.
        threads: CPU threads; None takes what this process may use.

    Raises:
        MinicnnError: no such device, or it does not answer.
    """
    kind, colon, index = name.partition(":")
    if kind not in NAMES or (colon and (kind != "cuda" or not index.isdigit())):
        raise MinicnnError(
            f"--device {name}: unknown; choose auto, cpu, cuda, cuda:N or emulated"
        )
    if threads is not None and threads < 1:
        raise MinicnnError(f"--threads {threads}: must be at least 1")
    cores = available_cores()
    if threads is not None and threads > max(MOST_THREADS, 4 * cores):
        raise MinicnnError(
            f"--threads {threads}: this process may use {cores} cores, and more "
            f"threads than that only wait for one another; --threads {cores} takes all"
        )
    if kind == "auto":
        kind = "cuda" if cuda_count() else "cpu"
    if kind == "cuda":
        return CudaDevice(int(index or 0), threads)
    return EmulatedDevice(threads) if kind == "emulated" else CpuDevice(threads)
