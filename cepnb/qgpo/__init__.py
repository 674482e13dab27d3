"""Q-guided policy optimisation: Section 4 of arXiv:2304.12824. Read in this order:

- `settings`, `transitions`: hyper-parameters, and the data as the networks get it
- `behaviour` (step 1), `support` (2), `critic` (3), `energy` (4), `policy` and `evaluation` (5)
- `pipeline`, `record`: all five steps in a folder, and its metrics.json
- `diagnostics`: how exact the guidance is
- `pretrained`: load a trained policy
- `tabular`: decision problems solved exactly
"""
