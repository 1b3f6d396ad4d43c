"""Lists of upcoming images that are wholly, half and not at all true, beside none."""
