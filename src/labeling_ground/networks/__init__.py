"""The networks of Segment Anything in torch, filled from official checkpoints: to be exported, or run."""
