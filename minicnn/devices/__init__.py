"""Where the arithmetic runs: devices, their launches, copies and recordings."""
