"""What finished nets tell beside their scores: probes, resets, CKA, lines, LogME."""
