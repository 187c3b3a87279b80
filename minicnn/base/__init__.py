"""The ground floor: errors, files, settings, random numbers; no work on arrays."""
