"""Engines that turn images into embeddings, and embeddings and prompts into masks."""
