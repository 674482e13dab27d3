"""Offline datasets: four sources load into one type. Read in this order:

- `dataset`: the type `OfflineDataset`
- `registry`: datasets by name; add a source here
- `hdf5`, `d4rl`, `minari`, `download`: files, D4RL's published files, Minari, resumable downloads
- `local`: data made on this machine by the `waypoint` controller or the `agents` that `sac` trains
"""
