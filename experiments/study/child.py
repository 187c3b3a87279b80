"""A `minicnn` command as a process that does not outlive the engine that started it.

The engine holds the writing end of a pipe that is the command's standard input, and
writes nothing. When the engine ends, by whatever means, or closes the pipe to stop the
command, reading from it ends, and the command gets a SIGTERM: training saves and
exits. This needs no help of the system, so it works wherever pipes do.
"""

from __future__ import annotations

import os
import runpy
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from minicnn.base.files import make_folder

PATIENCE = 120.0
"""Seconds that a command waits for its run folders: commands of a killed engine may
still be saving there."""
THREADS = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS"),
)
"""Variables of libraries that would start a thread a core."""
TAIL = 8192


class Child:
    """A running command.

    Args:
        arguments: what `minicnn` is called with.
        folders: run folders that must be free before it starts.
        failures: what is noted of earlier failures, which no longer holds.
        log: what it prints is appended there.
        threads: that it may use.
        gpu: for CUDA_VISIBLE_DEVICES; None leaves that as it is.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        folders: Sequence[Path],
        failures: Sequence[Path],
        log: Path,
        threads: int,
        gpu: str | None = None,
    ) -> None:
        make_folder(log.parent)
        for failure in failures:
            failure.unlink(missing_ok=True)
        self.log = log
        environment = dict(os.environ) | dict.fromkeys(THREADS, str(threads))
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        argv = [sys.executable, "-m", __name__, *map(str, folders), "--", *arguments]
        with log.open("ab") as out:
            by = f"# process {os.getpid()} on {os.uname().nodename}"
            out.write(f"{by}\n$ minicnn {shlex.join(arguments)}\n".encode())
            out.flush()
            self._began = out.tell()
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    def stop(self) -> None:
        """Tells it to save and exit; does not wait for that."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def status(self) -> int | None:
        """Its exit status, negative if a signal killed it; None while it runs."""
        return self._process.poll()

    def error(self) -> str:
        """What it said last; that it was killed, if it was."""
        status = self._process.returncode
        if status < 0:
            name = signal.Signals(-status).name
            memory = " (is there enough memory?)" if name == "SIGKILL" else ""
            return f"killed by {name}{memory}"
        with self.log.open("rb") as file:
            file.seek(max(self._began, file.seek(0, 2) - TAIL))
            lines = file.read().decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return said[-1].removeprefix("minicnn: error: ") if said else f"status {status}"


def _follow() -> None:
    """Waits for the pipe's end, and stops this process."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """python -m minicnn.experiments.study.child [FOLDER...] -- ARGUMENT...

    Runs `minicnn ARGUMENT...` once the run folders are free.
    """
    # Ctrl-C reaches every process of a terminal, but the engine alone decides: a second
    # signal would cut short the saving that the first one asked for.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    threading.Thread(target=_follow, daemon=True).start()
    from minicnn.experiments.study.folder import held

    split = sys.argv.index("--")
    folders = [Path(each) for each in sys.argv[1:split]]
    until = time.monotonic() + PATIENCE
    while any(map(held, folders)) and time.monotonic() < until:
        time.sleep(0.1)
    sys.argv = ["minicnn", *sys.argv[split + 1 :]]
    runpy.run_module("minicnn", run_name="__main__")


if __name__ == "__main__":
    main()
