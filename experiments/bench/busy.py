"""Whether others use this machine while it is measured."""

from __future__ import annotations

import os
import time


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
        busy = 1 - (idle_after - idle) / (total_after - total)
    except (OSError, ValueError, IndexError, ZeroDivisionError):
        return None
    return max(0.0, busy) * (os.cpu_count() or 1)
