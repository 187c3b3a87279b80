"""A headless browser that opens a page, to print it or to take its picture."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
    *("--disable-dev-shm-usage", "--enable-logging=stderr"),
    # Whatever is asked of the network fails, and says so on the console.
    "--host-resolver-rules=MAP * ~NOTFOUND",
)


def open_in_browser(page: Path, made: Path, *more: str) -> str:
    """Opens a page to make a file of it; returns what the browser said.

    The browser is MINICNN_BROWSER, or one on the PATH; without one the test is skipped.
    """
    found = [os.environ.get("MINICNN_BROWSER"), *map(shutil.which, BROWSERS)]
    browser = next((each for each in found if each), None)
    if browser is None:
        pytest.skip("no Chromium; install one, or name it in MINICNN_BROWSER")
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [browser, *OPTIONS, profile, *more, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert made.exists(), done.stderr[-2000:]
    return done.stderr


def screenshot(page: Path, width: int, height: int) -> tuple[np.ndarray, list[str]]:
    """The page's picture (H,W,3), and what it wrote to the console."""
    picture = page.with_suffix(".png")
    size = f"--window-size={width},{height}"
    said = open_in_browser(page, picture, size, f"--screenshot={picture}")
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB"))
    return pixels, [line for line in said.splitlines() if ":CONSOLE" in line]
