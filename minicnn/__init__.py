"""minicnn: AlexNet-style convnets by hand, and how transferable their layers are."""

__version__ = "0.1.0"
