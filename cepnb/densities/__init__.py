"""Densities with exact answers, and every method compared with them. Read in this order:

- `mixtures`: q_t, E_t and p_t in closed form
- `toys`: the paper's six densities; add another one here
- `names`: the names of densities and methods
- `metrics`: W2, MMD, gradient error, intervals
- `methods`: every method of the paper's Table 1; `settings` has their hyper-parameters
- `benchmark`: the table of all methods on all densities
- `own`: your own density from a sampler and an energy
"""
