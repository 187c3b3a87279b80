"""What processors and memory this process may have, and whether others use them."""

from __future__ import annotations

import os
import time
from pathlib import Path


def available_cores() -> int:
    """Processors this process may use, which may be fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def busy_cores(seconds: float = 1.0) -> float | None:
    """How many processors are kept busy, on average, while this process sleeps.

    None where the system does not say.
    """

    def ticks() -> tuple[int, int]:
        with open("/proc/stat", encoding="ascii") as file:
            # user, nice, system, idle, waiting for disks, interrupts, stolen; guests
            # are counted among users.
            times = [int(each) for each in file.readline().split()[1:9]]
        return sum(times), times[3] + times[4]

    try:
        total, idle = ticks()
        time.sleep(seconds)
        total_after, idle_after = ticks()
        passed = total_after - total
        busy = 1 - (idle_after - idle) / passed
    except (OSError, ValueError, IndexError, ZeroDivisionError):
        return None
    return max(0.0, busy) * (os.cpu_count() or 1)


def memory_bytes() -> int:
    """Memory that this process may have: the machine's, or its control group's."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            found.append(int(Path("/sys/fs/cgroup", name).read_text()))
        except (OSError, ValueError):  # absent, or "max"
            continue
    return min(found)
