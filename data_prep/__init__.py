"""From image archives, folders or nothing to a store; class lists and splits."""
