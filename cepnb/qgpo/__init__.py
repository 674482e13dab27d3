"""Q-guided policy optimisation: Section 4 of arXiv:2304.12824. Read in this order:

- `settings`, `transitions`: hyper-parameters and training data
- `behaviour` (step 1), `support` (2), `critic` (3), `energy` (4), `policy` and `evaluation` (5)
- `joint`: steps 3 and 4 in one loop
- `pipeline`, `record`: all five steps in a folder, and its metrics.json
- `pretrained`: load and export trained policies
- `diagnostics`: how exact the guidance is
- `tabular`: decision problems that are solved exactly
"""
