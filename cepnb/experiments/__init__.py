"""Many runs of QGPO: sweeps over datasets, seeds and settings, and their tables. Read in this order:

- `sweep_file`, `sweep`: a sweep as a TOML file, and how to run it
- `step_reuse`: steps that several runs of a sweep share
- `executor`: jobs in parallel processes or on a Dask cluster
- `scores`, `report`, `published_scores`: tables of scores
"""
