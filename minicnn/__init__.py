"""minicnn: AlexNet-style convnets by hand, and how transferable their layers are."""

from __future__ import annotations

__version__ = "0.1.0"
