"""The stand-in for CuPy is strict: each of its rules, broken once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from minicnn.base.precision import BF16
from minicnn.cli.main import cli
from minicnn.devices import meter
from minicnn.devices.device import CudaDevice
from minicnn.devices.recording import Graph
from minicnn.ops import softmax
from tests.devices.conftest import Adding
from tests.support import cupy_stand_in
from tests.support.cupy_stand_in import arrays, kernels, streams

Try = Callable[[Any, Any], object]
"""Something that is refused, of an array and CuPy."""


def lacking(mine: Any, cupys: Any) -> Iterator[str]:
    """The public names that a module or class of the stand-in has, and CuPy's lacks."""
    names = vars(mine) if isinstance(mine, ModuleType | SimpleNamespace) else dir(mine)
    for name in (each for each in names if not each.startswith("_")):
        if not hasattr(cupys, name):
            yield name
            continue
        inner = getattr(mine, name)
        if isinstance(inner, type | ModuleType | SimpleNamespace):
            yield from lacking(inner, getattr(cupys, name))


def test_it_has_nothing_that_cupy_lacks() -> None:
    real, modules = pytest.importorskip("cupy"), cupy_stand_in.modules()
    assert not list(lacking(modules["cupy"], real))
    assert not list(lacking(modules["cupyx"], pytest.importorskip("cupyx")))
    for mine in kernels.RawKernel, streams.Graph, arrays.MemoryPointer:
        cupys = getattr(real, mine.__name__, None) or getattr(real.cuda, mine.__name__)
        assert not list(lacking(mine, cupys))


def test_bench_runs(cupy: Any, compiler: None, monkeypatch: pytest.MonkeyPatch) -> None:
    # Few calls are timed, little memory is flushed before each, no product is large.
    monkeypatch.setattr(meter, "SECONDS", 0.0)
    monkeypatch.setattr(arrays, "TOTAL", 128 << 20)
    monkeypatch.setattr(meter, "CudaMeter", partial(meter.CudaMeter, side=16))
    command = "bench --device cuda --arch miniature --batch 2 --precision bf16"
    done = CliRunner().invoke(cli, command.split(), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "conv1 conv.forward" in done.output


# --- arrays -------------------------------------------------------------------------


def numbers(cupy: Any, *values: float) -> Any:
    return cupy.asarray(np.array(values, np.float32))


# Of three floats: what is refused, and what the error says.
REFUSED: dict[str, tuple[Try, type[Exception], str]] = {
    "NumPy's on the right": (lambda a, _: a * np.ones(3), TypeError, "Unsupported typ"),
    "NumPy's on the left": (lambda a, _: np.ones(3) - a, TypeError, "Unsupported type"),
    "NumPy's compared": (lambda a, _: np.ones(3) == a, TypeError, "Unsupported type"),
    "NumPy's ufunc": (lambda a, _: np.exp(a), TypeError, "__array_ufunc__"),
    "NumPy's function": (lambda a, _: np.stack([a, a]), TypeError, "no implementation"),
    "made NumPy's": (lambda a, _: np.asarray(a), TypeError, "Implicit conversion"),
    "several as a number": (lambda a, _: float(a), TypeError, "only"),
    "one as an index": (lambda a, _: [1, 2][a[0]], TypeError, "indices must be"),
    "as a key": (lambda a, _: {a: 1}, TypeError, "unhashable"),
    "filled with NumPy's": (
        lambda a, _: a.__setitem__(..., np.ones(3)), ValueError, "non-scalar numpy"
    ),
    "filled with a list": (lambda a, _: a.fill([1, 2, 3]), ValueError, "non-scalar"),
    "filled with more": (
        lambda a, _: a.__setitem__(slice(2), a), ValueError, "broadcast"
    ),
    "NumPy's as an index": (lambda a, _: a[np.array([0])], TypeError, "would copy"),
    "a list as an index": (lambda a, _: a[[0, 1]], TypeError, "would copy"),
    "in place, another kind": (
        lambda a, _: a.view(np.int32).__iadd__(0.5), TypeError, "coerced"
    ),
    "set to a list": (lambda a, _: a.set([1, 2, 3]), TypeError, "Only numpy.ndarray"),
    "set to CuPy's": (lambda a, _: a.set(a), TypeError, "Only numpy.ndarray"),
    "set to doubles": (lambda a, _: a.set(np.ones(3)), TypeError, "float64 array"),
    "set to two": (lambda a, _: a.set(np.ones(2, "f4")), ValueError, "mismatch"),
    "set with gaps": (lambda a, _: a.set(np.ones(6, "f4")[::2]), ValueError, "gaps"),
    "set between gaps": (
        lambda a, _: a[::2].set(np.ones(2, "f4")), RuntimeError, "non-contiguous"
    ),
    "structs": (lambda _, cp: cp.asarray(np.ones(3, "f4,f4")), ValueError, "dtype"),
    "NumPy's flag": (lambda a, _: a.flags.writeable, AttributeError, "writeable"),
    "no method": (lambda a, _: a.setflags(), AttributeError, "setflags"),
    "no function": (lambda _, cp: cp.savetxt_all, AttributeError, "savetxt_all"),
    "no module": (lambda _, cp: cp.cuda.cudnn, AttributeError, "'cudnn'"),
    "too much memory": (
        lambda _, cp: cp.empty(arrays.TOTAL, np.uint8), MemoryError, "Out of memory"
    ),
    "another GPU": (lambda _, cp: cp.cuda.Device(1).use(), RuntimeError, "ordinal"),
    "the default stream captured": (
        lambda _, cp: cp.cuda.Stream.null.begin_capture(), RuntimeError, "default"
    ),
    "a stream that blocks": (lambda _, cp: cp.cuda.Stream(), Exception, "waits for"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str, cupy: Any) -> None:
    attempt, error, said = REFUSED[what]
    with pytest.raises(error, match=said):
        attempt(numbers(cupy, 1, 2, 3), cupy)


def test_arrays_are_as_cupys(cupy: Any) -> None:
    a = numbers(cupy, 1, 2, 3)
    assert (a / 2 - (a > 1) * a).get().tolist() == [0.5, -1, -1.5]
    assert (2 - a).sum(axis=0).get() == 0
    assert isinstance(a[0], cupy.ndarray)
    part = a[1:]
    part *= 2
    assert a.get().tolist() == [1, 4, 6]  # of the same memory
    assert [len(each) for each in np.split(a, [1])] == [1, 2]
    # CuPy keeps NumPy's order.
    assert not cupy.asarray(np.ones((2, 3)).T).flags.c_contiguous
    unwritten = cupy.empty((2,), BF16)
    assert unwritten.nbytes == 4
    assert np.isnan(unwritten.get().astype(np.float32)).all()


# --- streams ------------------------------------------------------------------------


def recorded(cupy: Any, stream: Any = None) -> Any:
    event = cupy.cuda.Event()
    event.record(stream)
    return event


def test_work_is_done_when_it_is_waited_for(cupy: Any) -> None:
    other = cupy.cuda.Stream(non_blocking=True)
    a = numbers(cupy, 1)
    b = a.copy()
    other.synchronize()
    assert np.isnan(b._values)
    event = recorded(cupy)
    b[...] = 2
    event.synchronize()
    assert b._values == 1
    cupy.cuda.Device().synchronize()
    assert b._values == 2
    # Another stream sees what it waits for, and nothing else.
    b[...] = 3
    assert b.get(stream=other) == 2
    other.wait_event(recorded(cupy, cupy.cuda.Stream.null))
    assert b.get(stream=other) == 3


def test_pinned_memory_is_read_when_it_is_the_copys_turn(cupy: Any) -> None:
    dev, a = CudaDevice(), cupy.empty((3,), np.float32)
    for host, seen in (dev.host_empty((3,), np.float32), 2), (np.empty(3, "f4"), 1):
        host[...] = 1
        a.set(host)
        copied = cupy.asarray(host)
        host[...] = 2
        assert a.get().tolist() == copied.get().tolist() == [seen] * 3


def test_times_are_known_once_they_are_waited_for(cupy: Any) -> None:
    begin, end = recorded(cupy), recorded(cupy)
    elapsed = cupy.cuda.get_elapsed_time
    with pytest.raises(RuntimeError, match="cudaErrorNotReady"):
        elapsed(begin, end)
    end.synchronize()
    assert 0 <= elapsed(begin, end) < 1000
    begin._timed = False  # as Event(disable_timing=True) is
    with pytest.raises(RuntimeError, match="no time was taken"):
        elapsed(begin, end)


# While a stream is captured: what is refused, what is said, and if it is all in vain.
CAPTURING: dict[str, tuple[Try, str, bool]] = {
    "bool": (lambda a, _: bool(a), "D2H transfers are disallowed", False),
    "int": (lambda a, _: int(a), "D2H", False),
    "float": (lambda a, _: float(a), "D2H", False),
    "get": (lambda a, _: a.get(), "D2H", False),
    "asnumpy": (lambda a, cp: cp.asnumpy(a), "D2H", False),
    "asarray": (lambda _, cp: cp.asarray(np.ones(3)), "H2D", False),
    "set": (lambda a, _: a.set(np.ones(1, "f4")), "H2D", False),
    "wait for the stream": (
        lambda _, cp: cp.cuda.get_current_stream().synchronize(), "Unsupported", True
    ),
    "wait for the device": (
        lambda _, cp: cp.cuda.Device().synchronize(), "CaptureUnsupported", True
    ),
    "wait for its event": (
        lambda _, cp: recorded(cp).synchronize(), "cudaErrorCapturedEvent", True
    ),
    "wait for another's event": (
        lambda _, cp: cp.cuda.get_current_stream().wait_event(
            recorded(cp, cp.cuda.Stream.null)
        ), "cudaErrorStreamCaptureIsolation", True
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CAPTURING)
def test_refused_while_capturing(what: str, cupy: Any) -> None:
    attempt, said, in_vain = CAPTURING[what]
    a = numbers(cupy, 1)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        with pytest.raises(RuntimeError, match=said):
            attempt(a, cupy)
        if in_vain:
            with pytest.raises(RuntimeError, match="cudaErrorStreamCaptureInvalidated"):
                stream.end_capture()
        else:
            stream.end_capture()
    assert a.get() == 1


def test_an_event_of_a_capture_cannot_be_waited_for_later(cupy: Any) -> None:
    with cupy.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        event = recorded(cupy)
        stream.wait_event(event)
        stream.end_capture()
    with pytest.raises(RuntimeError, match="cudaErrorCapturedEvent"):
        event.synchronize()


# --- graphs -------------------------------------------------------------------------


def test_a_graph_runs_when_it_is_launched(cupy: Any, adding: Adding) -> None:
    adding()
    graph = Graph(cupy, adding.dev, adding)
    assert adding.total.get().tolist() == [4] * 3
    for _ in range(2):
        graph.launch()
    assert adding.total._values.tolist() == [4] * 3
    assert adding.total.get().tolist() == [12] * 3


def test_memory_that_is_let_go_is_others(cupy: Any, adding: Adding) -> None:
    graph = Graph(cupy, adding.dev, adding)
    adding.scores = None
    graph.launch()
    assert adding.total.get().tolist() == [4] * 3  # the graph holds its arrays
    graph._launches.clear()
    graph.launch()
    assert np.isnan(adding.total.get()).all()


def test_a_graph_must_run_before_it_is_destroyed(cupy: Any, adding: Adding) -> None:
    graph = Graph(cupy, adding.dev, adding)
    graph.launch()
    adding.dev.synchronize()
    graph.launch()
    del graph
    with pytest.raises(RuntimeError, match="destroyed before it had run"):
        adding.dev.synchronize()


# --- kernels ------------------------------------------------------------------------


@pytest.fixture
def launch(adding: Adding) -> Any:
    """Launches the kernel as CuPy's, with other arguments where they are named."""
    function = adding.dev.launcher._function(adding.kernel)
    args = adding.scores, adding.total, np.int32(4)

    def launched(grid: Any = (3, 1, 1), block: Any = (128, 1, 1), **more: Any) -> None:
        function(grid, block, **{"args": args, **more})

    return SimpleNamespace(function=function, args=args, launched=launched)


LAUNCHES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "too many threads": ({"block": (32, 32, 2)}, RuntimeError, "INVALID_VALUE"),
    "too deep a block": ({"block": (1, 1, 65)}, RuntimeError, "INVALID_VALUE"),
    "too high a grid": ({"grid": (1, 1 << 16, 1)}, RuntimeError, "INVALID_VALUE"),
    "memory not asked for": ({"shared_mem": 49153}, RuntimeError, "INVALID_VALUE"),
    "an array of the host": ({"args": (np.ones(3),) * 3}, TypeError, "numpy.ndarray"),
}  # fmt: skip


@pytest.mark.parametrize("what", LAUNCHES)
def test_refused_launches(what: str, launch: Any) -> None:
    changed, error, said = LAUNCHES[what]
    launch.launched()
    with pytest.raises(error, match=said):
        launch.launched(**changed)


def test_shared_memory_is_asked_for_within_the_cards_limit(launch: Any) -> None:
    launch.function.max_dynamic_shared_size_bytes = kernels.SHARED
    launch.launched(shared_mem=kernels.SHARED - 1024)  # the kernel has some already
    with pytest.raises(RuntimeError, match="INVALID_VALUE"):
        launch.function.max_dynamic_shared_size_bytes = kernels.SHARED + 1


def test_arrays_that_are_not_aligned_fault(adding: Adding, launch: Any) -> None:
    with pytest.raises(RuntimeError, match="cudaErrorMisalignedAddress"):
        launch.launched(args=(adding.scores[0, 1:], *launch.args[1:]))


def test_functions_go_by_the_name_expressions_of_their_module(
    cupy: Any, compiler: None
) -> None:
    source = softmax.KERNELS.source
    module = cupy.RawModule(code=source.text, name_expressions=["add_scores"])
    module.get_function("add_scores")
    with pytest.raises(RuntimeError, match="CUDA_ERROR_NOT_FOUND"):
        module.get_function("add_score")
