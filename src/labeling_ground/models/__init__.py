"""Which models there are, where their weights come from, and the weights on this machine."""
