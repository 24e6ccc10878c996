"""Measures model files on devices: a file in, a distribution of latencies on one device out."""
