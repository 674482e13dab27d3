"""Benchmarks of the package (`python -m cepnb bench` and `bench-run`).

- `rows`: speed of each costly part, as a share of the machine's limit
- `growth`: exponents of time and memory over the size of the inputs
- `quality`: training time until samples of a toy density are good
- `whole`: the paper's whole training of one task on one device
- `peer`: the paper's public code on the same inputs
- `options`: what they measure, and checks of their options
- `inputs`, `timing`: random inputs; interleaved timing, operation counts, the machine's limits
"""
