"""Densities with exact answers, and every method measured on them. Read in this order:

- `mixtures`: q_t, E_t and p_t in closed form
- `toys`: the paper's six densities; add another one here
- `own`: a reader's own density from a sampler and an energy
- `metrics`: W2, MMD, gradient error, intervals
- `settings`, `methods`, `benchmark`: sizes, the methods, and the table of all of them
"""
