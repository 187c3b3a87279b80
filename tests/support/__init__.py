"""Helpers, cases, oracles and stand-ins of the tests."""
