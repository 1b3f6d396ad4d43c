"""The servers of one half of a model: our own, and the handler that archives run inside TorchServe."""
