"""`python -m minicnn`."""

from minicnn.cli import main

main()
