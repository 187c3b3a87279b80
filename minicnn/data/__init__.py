"""What training reads: stores, batches, splits and class lists."""
