"""Times a training step's ops in a checkout of minicnn: a child of compare_forms.py.

    python -m minicnn.experiments.bench.timed_step CHECKOUT FORM ARCH BATCH THREADS

FORM: "compiled", or "NumPy", as where there is no compiler. Prints, as lines of JSON,
its commit with the ops of the step, each as [layer, name]; then for every line that it
reads the seconds of the whole step and of each op.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path


def _seconds(work: Callable[..., object], *given: object, **named: object) -> float:
    """Of one call."""
    began = time.perf_counter()
    work(*given, **named)
    return time.perf_counter() - began


def main(checkout: str, form: str, arch: str, batch: str, threads: str) -> None:
    """See the file."""
    sys.path[0] = checkout  # before minicnn is imported for the first time
    import minicnn

    if not Path(minicnn.__file__).is_relative_to(checkout):
        sys.exit(f"{minicnn.__file__}: not of the checkout {checkout}")
    from minicnn.devices import device
    from minicnn.experiments.bench.ops import Step
    from minicnn.training.environment import commit

    dev = device.get("cpu", int(threads))
    dev.native = form == "compiled"
    step = Step(dev, arch, int(batch))
    calls = step.recorded()
    ops = [[call.place, call.name] for call in calls]
    print(json.dumps({"commit": commit(), "ops": ops}), flush=True)
    for _ in sys.stdin:
        taken = [_seconds(step.resident)]
        taken += [_seconds(call.op, dev, **call.arguments) for call in calls]
        print(json.dumps(taken), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
