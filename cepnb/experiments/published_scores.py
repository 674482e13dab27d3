"""Published D4RL scores, for comparison only: they were measured on D4RL's own data.

Second-hand: this project's notes on the method copied the numbers "from later papers' tables" without naming these papers,
and no number was checked against a paper. A test checks only that QGPO's means agree with its scores.
"""

import re

# Normalised scores of QGPO (arXiv:2304.12824) on D4RL's published datasets: AntMaze-v0; locomotion without a version.
QGPO = {
    "halfcheetah-medium-expert": 93.5,
    "hopper-medium-expert": 108.0,
    "walker2d-medium-expert": 110.7,
    "halfcheetah-medium": 54.1,
    "hopper-medium": 98.0,
    "walker2d-medium": 86.0,
    "halfcheetah-medium-replay": 47.6,
    "hopper-medium-replay": 96.9,
    "walker2d-medium-replay": 84.4,
    "antmaze-umaze": 96.4,
    "antmaze-umaze-diverse": 74.4,
    "antmaze-medium-play": 83.6,
    "antmaze-medium-diverse": 83.8,
    "antmaze-large-play": 66.6,
    "antmaze-large-diverse": 64.8,
}
SUITES = ("locomotion", "AntMaze-v0")
# For each method: its means over the nine locomotion and the six AntMaze datasets above, from the same tables, and the
# paper that proposes it, which is not the source of the numbers.
MEANS = {
    "QGPO": (86.6, 78.3, "Lu et al. 2023, arXiv:2304.12824"),
    "IQL": (77.0, 63.0, "Kostrikov et al. 2022, arXiv:2110.06169"),
    "CQL": (77.6, 50.6, "Kumar et al. 2020, arXiv:2006.04779"),
    "SfBC": (75.6, None, "Chen et al. 2023, arXiv:2209.14548"),
    "Diffusion-QL": (88.0, None, "Wang et al. 2023, arXiv:2208.06193"),
    "IDQL": (82.1, None, "Hansen-Estruch et al. 2023, arXiv:2304.10573"),
}


def published_name(dataset: str) -> str | None:
    """Return the key of `QGPO` for a local, Minari or D4RL dataset, or None.

    For example, hopper-medium for local/hopper-medium, minari/mujoco/hopper/medium-v0 and d4rl/hopper-medium-v2.
    """
    source, _, rest = dataset.partition("/")
    name = rest.removeprefix("mujoco/").removeprefix("D4RL/").replace("/", "-")
    name = re.sub(r"-v\d+$", "", name)
    return name if source in ("local", "minari", "d4rl") and name in QGPO else None


def suite_of(name: str) -> str:
    """Return the one of `SUITES` that holds a key of `QGPO`."""
    return "AntMaze-v0" if name.startswith("antmaze") else "locomotion"
