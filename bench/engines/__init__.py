"""Segment Anything on this machine's processor: every engine against torch and plain ONNX Runtime, in one run.

Random weights, real architectures, real sizes. Rounds are interleaved, because shared machines drift: compare ratios.
"""
