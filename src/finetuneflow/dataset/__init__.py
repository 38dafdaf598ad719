"""Examples: made from sources, checked, split, described, written and read."""
