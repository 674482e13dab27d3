"""Environments for evaluating policies, many episodes stepped together. Read in this order:

- `base`: the interface of all environments
- `maze`, `locomotion`, `antmaze`: D4RL's tasks
- `registry`: environments by name; add another one here
- `d4rl_package`, `mujoco_py_standin`: the d4rl package on the modern `mujoco`
- `quiet`: silences libraries that print and warn
"""
