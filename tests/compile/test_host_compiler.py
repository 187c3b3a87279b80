"""The host's compiler: what it is asked, and under what its work is kept."""

from __future__ import annotations

import ctypes
import platform
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from minicnn.base.errors import MinicnnError
from minicnn.compile import host_compiler

# The beginnings of Linux's /proc/cpuinfo, {} where instructions are named.
INTEL = """processor\t: {number}
vendor_id\t: GenuineIntel
cpu MHz\t\t: {clock}
flags\t\t: fpu vme sse2 {more}
vmx flags\t: vnmi
"""
ARM = """processor\t: {number}
BogoMIPS\t: {clock}
Features\t: fp asimd {more}
CPU implementer\t: 0x41
CPU part\t: 0xd0c
"""
TEXTS = {"Intel": INTEL, "ARM": ARM}


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    host_compiler._fingerprint.cache_clear()
    yield
    host_compiler._fingerprint.cache_clear()


def fingerprint(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *processors: str
) -> bytes:
    """Of a machine whose cpuinfo lists these."""
    info = folder / "cpuinfo"
    info.write_text("\n".join(processors))
    monkeypatch.setattr(host_compiler, "CPU_INFO", info)
    host_compiler._fingerprint.cache_clear()
    try:
        return host_compiler._fingerprint()
    except MinicnnError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_instructions_tell_processors_apart(
    text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def of(more: str, clock: str = "2000.0", count: int = 1) -> bytes:
        each = [text.format(number=n, clock=clock, more=more) for n in range(count)]
        return fingerprint(monkeypatch, tmp_path, *each)

    plain = of("")
    assert plain != of("avx2 sve")
    # Neither their clocks nor their number.
    assert plain == of("", "2001.3") == of("", count=8)


def test_the_parts_of_arm_tell_processors_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    big = ARM.format(number=0, clock=1, more="")
    little = big.replace("0xd0c", "0xd05")
    one = fingerprint(monkeypatch, tmp_path, big)
    two = fingerprint(monkeypatch, tmp_path, big, little)
    assert one != two
    # Which of them is listed first says nothing.
    assert two == fingerprint(monkeypatch, tmp_path, little, big)


@pytest.mark.parametrize("tool", ["answers", "answers nothing", "absent"])
def test_without_cpuinfo(
    tool: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(host_compiler, "CPU_INFO", tmp_path / "absent")
    monkeypatch.setattr(platform, "processor", lambda: "arm")

    def run(command: list[str], **how: object) -> SimpleNamespace:
        assert command[:2] == ["sysctl", "-n"]
        if tool == "absent":
            raise FileNotFoundError(command[0])
        return SimpleNamespace(stdout="Apple M2\n" if tool == "answers" else "")

    monkeypatch.setattr(subprocess, "run", run)
    expected = ["Apple M2"] if tool == "answers" else ["arm"]
    assert host_compiler._instructions() == expected


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
