"""minicnn: AlexNet-style convnets by hand, and how transferable their layers are."""

from __future__ import annotations

from pathlib import Path as _Path

__version__ = "0.1.0"

# Installed, the kernels and the other top-level folders lie in this one; in a source
# tree that is not installed they lie beside it.
_HERE = _Path(__file__).resolve().parent
if not (_HERE / "kernels").is_dir() and (_HERE.parent / "kernels").is_dir():
    __path__.append(str(_HERE.parent))
