"""Benchmarks: scripts that compare vqpipe with its peers on given data."""
