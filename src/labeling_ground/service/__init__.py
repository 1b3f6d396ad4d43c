"""What is done: key → look-up ∥ prediction → store. No HTTP here, and nothing but this knows both cache and models."""
