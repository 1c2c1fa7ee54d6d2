"""Benchmarks: `make bench`. Figures are ratios against a reference in the same run wherever one exists."""
