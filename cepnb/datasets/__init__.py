"""Offline datasets: four sources load into one type. Read in this order:

- `dataset`: the type `OfflineDataset`
- `registry`: datasets by name; add a source here
- `hdf5`: files in D4RL's layout
- `d4rl`: D4RL's published files, by name; `download` fetches and resumes
- `minari`: Minari datasets
- `coordinates`: whether a dataset has the coordinates of an environment
- `local`: data made on this machine by the `waypoint` controller in mazes, by the `agents` that `sac`
  trains on bodies, and in `antmaze` by the `ant` that `ant_training` trains
"""
