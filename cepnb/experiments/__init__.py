"""Many runs of QGPO: sweeps over datasets, seeds and settings, and their tables. Read in this order:

- `sweep_file`, `sweep`: a sweep as a TOML file, and how it runs
- `step_reuse`: which steps two runs share
- `executor`, `cluster`: runs in parallel processes or on a Dask cluster
- `scores`, `report`, `published_scores`: tables of scores
"""
