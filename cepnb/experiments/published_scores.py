"""Published D4RL scores, to be shown beside ours and never among them: they are on D4RL's own data.

Second-hand: the notes on the method from which all numbers here are taken have them "from later papers' tables", without a
word of which papers or tables, and none has been compared with a paper. `SOURCES` says whose a method is, not where its
number was read. All that is checked is that QGPO's means are those of its rows.
"""

import re

# Normalised scores of QGPO (arXiv:2304.12824) on D4RL's published sets: of AntMaze the v0; of locomotion it is not said.
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
# Means over the nine locomotion and the six AntMaze sets above, from the same tables.
MEANS = {
    "locomotion": {
        "QGPO": 86.6,
        "IQL": 77.0,
        "CQL": 77.6,
        "SfBC": 75.6,
        "Diffusion-QL": 88.0,
        "IDQL": 82.1,
    },
    "AntMaze-v0": {"QGPO": 78.3, "IQL": 63.0, "CQL": 50.6},
}
PAPERS = {
    "QGPO": "Lu et al. 2023, arXiv:2304.12824",
    "IQL": "Kostrikov et al. 2022, arXiv:2110.06169",
    "CQL": "Kumar et al. 2020, arXiv:2006.04779",
    "SfBC": "Chen et al. 2023, arXiv:2209.14548",
    "Diffusion-QL": "Wang et al. 2023, arXiv:2208.06193",
    "IDQL": "Hansen-Estruch et al. 2023, arXiv:2304.10573",
}


def published_name(dataset: str) -> str | None:
    """The set of `QGPO` whose name a dataset has, be it made here, from Minari or D4RL's own: hopper-medium of
    local/hopper-medium, minari/mujoco/hopper/medium-v0 and d4rl/hopper-medium-v2. None if there is none."""
    door, _, rest = dataset.partition("/")
    name = re.sub(
        r"-v\d+$", "", rest.removeprefix("mujoco/").removeprefix("D4RL/").replace("/", "-")
    )
    return name if door in ("local", "minari", "d4rl") and name in QGPO else None


def suite_of(name: str) -> str:
    """The suite of `MEANS` in which a set of `QGPO` is."""
    return "AntMaze-v0" if name.startswith("antmaze") else "locomotion"
