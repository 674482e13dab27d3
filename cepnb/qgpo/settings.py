"""Hyper-parameters of QGPO: one flat dataclass, four profiles, and what each task changes."""

import difflib
import inspect
import math
import re
from dataclasses import dataclass, fields, replace

from cepnb.diffusion.plan import Plan
from cepnb.envs.registry import family_of
from cepnb.errors import CepnbError
from cepnb.profiles import PROFILE_NAMES, profile_name
from cepnb.storage.validation import convert

# Allowed words and limits. Without an entry, whole numbers are from 1 to 2³¹ − 1 and real ones above 0.
CHOICES = {
    "reward_tuning": ("none", "return_range", "minus_one"),
    "behaviour_precision": ("float32", "bfloat16"),
    "support_precision": ("float32", "bfloat16"),
    "support_storage": ("float32", "float16"),
    "labels": ("self_normalised", "posterior"),
    "training": ("staged", "joint"),
    "guidance": ("cep", "mse", "exp_mse", "dps"),
}
MINIMUM = dict(K=2, energy_K=2, data_seed=0, energy_states=0, best_of=0)
MINIMUM |= dict(
    q_networks=2,
    q_pessimism=0,
    state_jitter=0,
    reward_reach=0,
    energy_jitter=0,
    place_frequencies=0,
    target_actions=0,
    contrasted=2,
)
MAXIMUM = dict(target_rate=1.0, beta=1e30, beta_q=1e30)  # float32 holds βQ up to 3e38
FIX = "write True or False, 3, 0.5, name, ('one',), or ('one', 'two')"


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of QGPO; the defaults are the reference settings of arXiv:2304.12824.

    Values may be NumPy or torch scalars, and lists; they become plain numbers and tuples. Raises
    `CepnbError` on a value of another type or outside its limits. `meanings` reads the comments.
    """

    # Data
    transitions: int = 1_000_000  # rows of a locally generated dataset
    data_seed: int = 0  # seed of that dataset; all training seeds share it
    reward_tuning: str = "none"  # how rewards are scaled; see `cepnb.qgpo.transitions.prepare`
    heading_frame: bool = False  # AntMaze: the states' ants are turned so that all head along x
    # 1. Behaviour diffusion μ_θ(a|s)
    behaviour_widths: tuple[int, ...] = (512, 256, 128)  # encoder half of the U-shaped residual MLP
    behaviour_embedding: int = 128  # width of the joint embedding of time and state
    behaviour_state_width: int = 32  # width of the embedding of the state before that
    behaviour_steps: int = 600_000  # training steps
    behaviour_batch: int = 4096  # transitions per step
    behaviour_rate: float = 1e-4  # Adam learning rate
    behaviour_final: float = 1.0  # last learning rate as a fraction of the first (cosine decay)
    behaviour_precision: str = "float32"  # bfloat16 is about twice as fast where CPUs support it
    # 2. Support set
    K: int = 16  # support actions per distinct state: the samples of one softmax in Eq. 22
    state_jitter: float = 0.0  # largest deviation of moved copies, in those of the data; 0: none
    support_precision: str = "float32"  # precision of ε_θ while the support set is sampled
    support_storage: str = "float32"  # float16 halves the file and rounds the actions
    sampler_steps: int = 15  # DPM-Solver++ evaluations per sample, here and in evaluation
    clip_actions: bool = True  # clip sampled actions to [-1, 1], where Q is trained
    # 3. In-support softmax Q-learning
    reward_reach: float = 0.0  # a copy's distance, in deviations, where its reward is least; 0: off
    beta_q: float = 5.0  # β of Eq. 22
    discount: float = 0.99  # γ, by which a reward counts less per step of delay
    q_width: int = 256  # units of a hidden layer
    q_depth: int = 3  # hidden layers
    q_layer_norm: bool = False  # layer norm before each ReLU of Q
    q_networks: int = 2  # independent networks
    target_networks: int = 2  # networks whose minimum a target takes, at most q_networks
    q_pessimism: float = 0.0  # κ, against doubtful Q; see `cepnb.qgpo.critic.policy_value`
    place_frequencies: int = 0  # Fourier features of the first two state coordinates, also in f_φ
    target_actions: int = 0  # actions of s', of its K, drawn for each target of Eq. 22; 0 uses all
    q_steps: int = 500_000  # training steps
    q_batch: int = 256  # transitions per step
    q_rate: float = 3e-4  # Adam learning rate
    q_final: float = 1.0  # as behaviour_final
    target_rate: float = 0.005  # τ of the Polyak average of the target networks
    # 4. In-support energy, for CEP and the regression baselines
    beta: float = 10.0  # β of the policy π ∝ μ e^{βQ}, in Eq. 20
    energy_states: int = 0  # states drawn for step 4, with fresh actions; 0 reuses the support set
    energy_jitter: float = 0.0  # noise of half of energy_states, in standard deviations
    energy_K: int = 16  # actions per state of step 4; equals K if energy_states is 0
    energy_width: int = 256  # units of a hidden layer
    energy_depth: int = 4  # hidden layers
    energy_steps: int = 1_000_000  # training steps
    energy_batch: int = 256  # states per step with energy_K actions, or more with few `contrasted`
    energy_rate: float = 3e-4  # Adam learning rate
    energy_final: float = 1.0  # as behaviour_final
    labels: str = "self_normalised"  # estimate of E_t; see `cepnb.qgpo.energy.contrast_loss`
    q_in_energy: bool = False  # f_φ starts from −βQ; see `cepnb.qgpo.energy.QInformedEnergy`
    contrasted: int = 4  # actions of a state, of its energy_K, noised with labels "posterior"
    training: str = "staged"  # "joint" trains the energies together with Q
    guidance: tuple[str, ...] = ("cep", "mse")  # energies to train and evaluate; () for none
    # 5. Evaluation
    episodes: int = 100  # episodes per method and scale
    scales: tuple[float, ...] = (1.0, 2.0, 3.0, 5.0, 8.0, 10.0)  # guidance scales s; 1 is exact
    headline_scale: float = 1.0  # the scale to report, fixed before any test return is known
    best_of: int = 32  # behaviour actions from which the baseline picks the highest Q; 0 skips it
    # All training
    checkpoint_every: int = 1_000  # steps between checkpoints

    def __post_init__(self) -> None:
        for field in fields(self):
            value = convert(_plain(getattr(self, field.name)), field.type, field.name, FIX)
            object.__setattr__(self, field.name, value)
            _check(field.name, value)
        K, states, scale = self.energy_K, self.energy_states, self.headline_scale
        _require(self.discount < 1, f"discount {self.discount}", "a number in (0, 1)")
        some, most = self.target_networks, self.q_networks
        _require(some <= most, f"target_networks {some}", f"at most q_networks, {most}")
        _require(states or K == self.K, f"energy_K {K}", f"K = {self.K}, or energy_states above 0")
        absolute = self.q_in_energy and "exp_mse" in self.guidance  # e^{−f} would overflow
        _require(not absolute, "guidance 'exp_mse' with q_in_energy", "q_in_energy False")
        _require(scale in self.scales, f"scales {self.scales}", f"headline_scale {scale} as well")
        for name in ("scales", "guidance"):
            values = getattr(self, name)
            _require(len(set(values)) == len(values), f"{name} {values}", "each value once")
        every, record = self.checkpoint_every, Plan.record_every
        _require(every % record == 0, f"checkpoint_every {every}", f"a multiple of {record}")
        for step in ("behaviour", "q", "energy"):
            self.plan(step)

    @property
    def states_per_energy_step(self) -> int:
        """States per step of step 4, so that the noised actions are energy_batch × energy_K."""
        if self.labels != "posterior":
            return self.energy_batch
        return self.energy_batch * self.energy_K // min(self.contrasted, self.energy_K)

    @property
    def needs_critic(self) -> bool:
        """Whether any policy uses Q; otherwise the run is imitation by the behaviour model alone."""
        return bool(self.guidance or self.best_of)

    def plan(self, step: str) -> Plan:
        """Return the training plan of "behaviour", "q" or "energy": steps and learning rates."""
        steps, rate = getattr(self, f"{step}_steps"), getattr(self, f"{step}_rate")
        final, every = getattr(self, f"{step}_final"), self.checkpoint_every
        return Plan(steps, rate, final, checkpoint_every=every)


def _check(name: str, value: object) -> None:
    """Raise `CepnbError` if a setting is outside `CHOICES` or its limits."""
    values = value if isinstance(value, tuple) else (value,)
    _require(values or name == "guidance", f"{name} {value}", "at least one value")
    least = MINIMUM.get(name, 1)
    for item in values:
        if name in CHOICES:
            valid, fix = item in CHOICES[name], f"one of {', '.join(CHOICES[name])}"
        elif isinstance(item, float):
            valid = 0 < item < math.inf or item == least == 0
            fix = "a finite number " + ("of at least 0" if least == 0 else "above 0")
        else:
            valid, fix = isinstance(item, bool) or item >= least, f"at least {least}"
        _require(valid, f"{name} {item!r}", fix)
        if not isinstance(item, str):
            most = MAXIMUM.get(name, math.inf if isinstance(item, float) else 2**31 - 1)
            _require(item <= most, f"{name} {item!r}", f"at most {most}")


def _plain(value: object) -> object:
    """Convert NumPy and torch scalars and arrays, also in lists, to plain numbers and lists."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _require(valid: object, found: str, fix: str) -> None:
    if not valid:
        raise CepnbError(f"{found}: use {fix}")


# What the small profiles change, tuned on training seeds from 100 on, which are not reported.
# No result of `desktop` has been measured yet.
_SMALL = dict(
    behaviour_embedding=64, behaviour_batch=256, behaviour_rate=1e-3, behaviour_final=0.01
)
# Layer norm, width and number of steps matter together; few drawn actions make steps cheap.
_SMALL |= dict(q_layer_norm=True, q_batch=128, q_rate=1e-3, q_final=0.05, target_rate=0.01)
# Within a state, Q differs by less than two networks disagree; the mean of five has less noise.
_SMALL |= dict(q_networks=5, q_pessimism=1.0)
# At β = 20 policies of s = 1 are far from the best of 32 actions by Q.
_SMALL |= dict(beta=60.0, energy_rate=4e-3, energy_final=0.01)
_SMALL |= dict(labels="posterior")  # less noise: a step takes more states with few actions each
# A policy stops where f_φ is wrong, as next to the goal; the data's states are not those it visits.
_SMALL |= dict(energy_jitter=0.5)
_SIZES = {  # setting: (ci, laptop, desktop)
    "transitions": (4_000, 100_000, 400_000),
    "behaviour_widths": ((64, 32), (128, 64, 32), (256, 128, 64)),
    "behaviour_steps": (300, 12_000, 40_000),
    "K": (4, 12, 12),
    "sampler_steps": (5, 10, 15),
    "q_width": (32, 128, 128),
    "q_depth": (2, 3, 3),
    "q_steps": (300, 40_000, 150_000),
    "target_actions": (2, 4, 4),
    "energy_states": (1_000, 12_500, 25_000),  # neighbouring states are similar: larger K instead
    "energy_K": (8, 256, 256),  # labels are biased at small K, the more the larger β is
    "energy_batch": (32, 8, 8),
    "q_in_energy": (False, True, True),
    "energy_width": (32, 128, 192),
    "energy_depth": (2, 3, 3),
    "energy_steps": (300, 12_000, 40_000),
    "episodes": (4, 100, 100),
    "scales": ((1.0, 3.0), (1.0, 2.0, 3.0, 5.0), (1.0, 2.0, 3.0, 5.0)),
    "best_of": (4, 32, 32),
    "checkpoint_every": (100, 1_000, 1_000),
}
_NAMES = PROFILE_NAMES[:3]  # the small profiles
PROFILES = {
    name: Settings(**_SMALL, **{setting: sizes[i] for setting, sizes in _SIZES.items()})
    for i, name in enumerate(_NAMES)
} | {"paper": Settings()}

# What a family or an environment changes: the paper's β and β_Q for locomotion and AntMaze, and no
# energy_jitter, because their data covers the neighbourhood of its states.
_PAPER = dict(beta=3.0, beta_q=1.0, energy_jitter=0.0)
TASKS = {
    "maze2d": {},
    "maze2d-medium": {},
    "maze2d-large": {},
    "locomotion": _PAPER | dict(reward_tuning="return_range"),
    "antmaze": _PAPER | dict(reward_tuning="minus_one"),
}
# For data with action noise (`-noisy`), as D4RL's files appear to have: without it, no action brakes.
# β_Q = 30 and all K actions in a target make Q closer to the guided policy's own value than β_Q = 5.
_MAZES = dict(beta_q=30.0, target_actions=0, target_networks=5, target_rate=0.03)
# Where no row is, Q predicts reward, and policies come to rest there.
_SMALL_MAZE = _MAZES | dict(state_jitter=1.0, reward_reach=0.5)
_LAPTOP_SMALL_MAZE = dict(K=8, q_steps=15_000)  # as the target moves faster, fewer steps suffice
# Without frequencies Q has false maxima behind walls, and f_φ smooths the jumps of Q.
_LARGER_MAZES = _MAZES | dict(behaviour_state_width=128, place_frequencies=32)
# More rows make neighbouring states similar, so that few support actions of each suffice.
_LAPTOP_LARGER_MAZES = dict(
    transitions=400_000, behaviour_rate=3e-3, K=6, energy_K=128, energy_batch=16
)
# Targets use all K actions: few drawn ones make Q nearly the behaviour's own value, which says
# little about a better policy where the behaviour falls soon. Differences of Q within a state are
# as small as its errors, so that policies need a bound of them, and targets the least of all five.
# A fall can follow 200 steps after the choice that leads to it, and 0.99²⁰⁰ = 0.13 hides it.
_SMALL_LOCOMOTION = dict(target_actions=0, target_networks=5, q_pessimism=3.0, discount=0.997)
# Without Q in it, f_φ has less than half of the gain in Q on walker2d-medium-replay. β = 10 instead of
# the paper's 3, because at 3 policies of s = 1 are far from the best of 32 actions by Q.
_SMALL_LOCOMOTION |= dict(q_in_energy=True, beta=10.0)
# An expert's actions are narrow, and small errors of μ_θ make a body fall.
_LAPTOP_LOCOMOTION = dict(
    behaviour_widths=(256, 128, 64),
    behaviour_embedding=128,
    behaviour_steps=40_000,
    behaviour_batch=128,
    energy_K=64,
    energy_batch=32,
    scales=(1.0, 2.0),
)
# From trials on umaze-diverse, seed 100. An ant of μ_θ falls on its back where an ant of the data does not.
# What makes that rarer: heading_frame, behaviour_state_width, more rows, and q_pessimism 3 with β = 3.
_LAPTOP_ANTMAZE = dict(
    transitions=300_000,
    heading_frame=True,
    behaviour_widths=(256, 128, 64),
    behaviour_embedding=128,
    behaviour_state_width=128,
    behaviour_steps=40_000,
    behaviour_rate=3e-3,
    K=8,
    discount=0.995,  # a goal is up to 700 steps away
    beta_q=10.0,
    target_networks=5,
    q_pessimism=3.0,
    energy_K=64,
    energy_batch=32,
    scales=(1.0, 2.0, 3.0),
)
_DESKTOP_LOCOMOTION = dict(
    behaviour_embedding=128,
    behaviour_steps=80_000,
    q_steps=80_000,
    energy_states=50_000,
    energy_K=128,
    energy_batch=32,
)
PROFILE_TASKS = {  # further changes, for (profile, task)
    ("paper", "antmaze"): dict(K=32, energy_K=32, scales=(1.0, 1.5, 2.0, 2.5, 3.0, 4.0)),
    ("ci", "locomotion"): _SMALL_LOCOMOTION,
    ("laptop", "locomotion"): _SMALL_LOCOMOTION | _LAPTOP_LOCOMOTION,
    ("desktop", "locomotion"): _SMALL_LOCOMOTION | _DESKTOP_LOCOMOTION,
    ("laptop", "antmaze"): _LAPTOP_ANTMAZE,
    **{(name, "maze2d"): _SMALL_MAZE for name in ("ci", "desktop")},
    ("laptop", "maze2d"): _SMALL_MAZE | _LAPTOP_SMALL_MAZE,
} | {
    (name, f"maze2d-{maze}"): _LARGER_MAZES | (_LAPTOP_LARGER_MAZES if name == "laptop" else {})
    for name in _NAMES
    for maze in ("medium", "large")
}


def qgpo_settings(
    profile: str | None = None, environment: str | None = None, /, **changes: object
) -> Settings:
    """Return the settings of a profile for an environment, with single fields changed by keyword.

    `profile` None reads `$CEPNB_PROFILE`, else "laptop". `environment` is an environment's name, or
    a family: "maze2d" (if None), "locomotion" or "antmaze". Raises `CepnbError` on an unknown name
    and on a value outside its limits.
    """
    profile, task = profile_name(profile), environment or "maze2d"
    if task not in TASKS:
        task = family_of(task)
    task_changes = TASKS[task] | PROFILE_TASKS.get((profile, task), {})
    settings = replace(PROFILES[profile], **task_changes | coerce(changes))
    may_turn = environment is None or task == "antmaze"  # None is also an own file of ants
    _require(
        may_turn or not settings.heading_frame, "heading_frame True", "False except in AntMaze"
    )
    return settings


def meanings() -> dict[str, dict[str, str]]:
    """Return section → setting → meaning, as the comments of `Settings` give them."""
    sections: dict[str, dict[str, str]] = {}
    for line in inspect.getsource(Settings).splitlines():
        if title := re.fullmatch(r"    # (.+)", line):
            section = sections.setdefault(title[1], {})
        elif entry := re.fullmatch(r"    (\w+): .+?  # (.+)", line):
            section[entry[1]] = entry[2]
    return sections


def coerce(changes: dict[str, object]) -> dict[str, object]:
    """Convert settings read from TOML, JSON or the command line to their declared types.

    A list becomes a tuple, and a whole number becomes a float where a float is declared. Raises
    `CepnbError` on an unknown setting or a value of another type.
    """
    types = {field.name: field.type for field in fields(Settings)}
    for name in changes:
        near = difflib.get_close_matches(name, types, n=3, cutoff=0.5) or types
        _require(name in types, f"setting '{name}'", f"one of {', '.join(near)}")
    return {name: convert(_plain(value), types[name], name, FIX) for name, value in changes.items()}
