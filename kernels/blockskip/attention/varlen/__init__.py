"""Attention over packed sequences of different lengths, by the prefill kernels."""
