"""The tests, their shared cases and helpers, and the float64 oracles."""
