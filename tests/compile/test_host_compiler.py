"""The host's compiler: what it is asked, and under what its work is kept."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from minicnn.base.errors import MinicnnError
from minicnn.compile import host_compiler

ANSWER = 'extern "C" int answer() { return 42; }\n'
OPTIMISED = """
#ifdef __OPTIMIZE__
extern "C" int optimised() { return 1; }
#else
extern "C" int optimised() { return 0; }
#endif
"""


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty folder of objects; nothing of the compiler is remembered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    host_compiler._fingerprint.cache_clear()
    yield tmp_path / "minicnn"
    host_compiler._fingerprint.cache_clear()


@pytest.mark.usefixtures("compiler")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="names x86's instructions")
def test_instructions_tell_processors_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    here, compile_ = host_compiler._fingerprint(), host_compiler._compile
    monkeypatch.setattr(
        host_compiler, "_compile", lambda *given: compile_(*given, "-mno-sse3")
    )
    host_compiler._fingerprint.cache_clear()
    assert host_compiler._fingerprint() != here


def test_missing_compiler_names_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(MinicnnError, match=r"install g\+\+ .*apt install g\+\+"):
        host_compiler.compiler.__wrapped__()


@pytest.mark.usefixtures("compiler")
def test_objects_are_cached_by_content(cache: Path) -> None:
    first = host_compiler.compile_library("answer", ANSWER)
    written = first.stat().st_mtime_ns
    assert host_compiler.compile_library("answer", ANSWER) == first
    assert first.stat().st_mtime_ns == written
    other = host_compiler.compile_library("answer", ANSWER.replace("42", "43"))
    assert sorted(cache.iterdir()) == sorted([first, other])


@pytest.mark.usefixtures("compiler")
def test_who_wants_the_same_object_waits_for_it(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    slow, log = tmp_path / "slow", tmp_path / "log"
    compiler = host_compiler.compiler()[0]
    slow.write_text(f'#!/bin/sh\necho >> {log}; sleep 0.5; exec {compiler} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setattr(host_compiler, "compiler", lambda: (str(slow),))
    host_compiler._fingerprint()
    log.unlink()
    with ThreadPoolExecutor(3) as threads:
        jobs = [
            threads.submit(host_compiler.compile_library, "answer", ANSWER)
            for _ in range(3)
        ]
        (path,) = {job.result() for job in jobs}
    assert log.read_text() == "\n"
    assert list(cache.iterdir()) == [path]


@pytest.mark.usefixtures("compiler")
def test_options_of_cxx_come_last(monkeypatch: pytest.MonkeyPatch) -> None:
    program = host_compiler.compiler()[0]
    for command, answer in ((program,), 1), ((program, "-O0", "-g"), 0):
        monkeypatch.setattr(host_compiler, "compiler", lambda it=command: it)
        host_compiler._fingerprint.cache_clear()
        path = host_compiler.compile_library("optimised", OPTIMISED)
        assert ctypes.CDLL(str(path)).optimised() == answer
