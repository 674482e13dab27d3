"""Imports, functions and commands leave the state of the process as they found it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cepnb.cli import _parser

ROOT = Path(__file__).parent.parent
# Not compared, because a second call needs them and no other code reads them: `sys.modules` and the finders of
# `sys.meta_path`, caches on disk and in memory, and threads that wait for work.
SNAPSHOT = r"""
import json, locale, logging, os, random, signal, socket, sys, threading, warnings
import matplotlib, numpy, torch  # their own states are compared below
import scipy.stats  # its import adds filters for its own warnings, as for each user of scipy

def stream(descriptor):
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino

def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask

def snapshot():
    root = logging.getLogger()
    return {
        "root logger": (root.handlers[:], root.level, root.filters[:], root.disabled, logging.raiseExceptions),
        "logging.disable": logging.root.manager.disable,
        "logging.lastResort": logging.lastResort,
        "warnings.filters": [str(entry) for entry in warnings.filters],
        "warnings.showwarning": warnings.showwarning,
        "sys.stdin, stdout, stderr": (sys.stdin, sys.stdout, sys.stderr),
        "file descriptors 1 and 2": (stream(1), stream(2)),
        "random state of random": hash(random.getstate()),
        "random state of numpy": hash(numpy.random.get_state()[1].tobytes()) + numpy.random.get_state()[2],
        "random state of torch": hash(torch.random.get_rng_state().numpy().tobytes()),
        "torch default dtype and device": (torch.get_default_dtype(), torch.get_default_device()),
        "torch threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "torch modes": (
            torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(), torch.is_anomaly_enabled(),
            torch.get_float32_matmul_precision(), torch._tensor_str.PRINT_OPTS.precision,
        ),
        "current folder": os.getcwd(),
        "os.environ": dict(os.environ),
        "sys.path": sys.path[:],
        "locale": locale.setlocale(locale.LC_ALL),
        "matplotlib": (dict(matplotlib.rcParams), matplotlib.get_backend(auto_select=False)),
        "signal handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "umask": umask(),
        "numpy errors and printing": (numpy.geterr(), numpy.get_printoptions()),
        "hooks": (sys.excepthook, threading.excepthook, sys.displayhook, sys.unraisablehook, sys.gettrace()),
        "limits": (sys.getrecursionlimit(), socket.getdefaulttimeout(), sys.getswitchinterval()),
    }

def difference(before, after):
    # dictionaries, such as os.environ, are reported by their changed keys
    if isinstance(before, dict):
        keys = [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
        return {str(key): f"{before.get(key)} -> {after.get(key)}" for key in keys}
    if isinstance(before, list):
        gone, new = [x for x in before if x not in after], [x for x in after if x not in before]
        return f"removed {gone}, added {new}"[:1000]
    return f"{before} -> {after}"[:200]

changed = {}

def compare(name, call):
    before = snapshot()
    call()
    after = snapshot()
    for key in before:
        if before[key] != after[key]:
            changed[f"{name}: {key}"] = difference(before[key], after[key])
"""
SMALL = r"""
small = dict(transitions=600, behaviour_widths=(8,), behaviour_embedding=8, behaviour_steps=20, behaviour_batch=16,
    sampler_steps=2, K=2, energy_K=2, energy_states=50, q_width=8, q_depth=2, q_steps=20, q_batch=16, energy_width=8,
    energy_depth=2, energy_steps=20, energy_batch=8, guidance=("cep", "mse"), scales=(1.0, 3.0), episodes=1, best_of=2)
"""
D4RL = r"""
import importlib
for name in ("cepnb", "cepnb.cli", "cepnb.notebook.exercises", "cepnb.d4rl_compat"):
    compare(f"import {name}", lambda: importlib.import_module(name))
import d4rl, gym

def score(name):
    env = gym.make(name)
    env.seed(0)
    env.reset()
    env.step(env.action_space.sample())
    print(env.get_normalized_score(1.0))
    env.close()

for name in ("maze2d-umaze-local-v1", "hopper-medium-v2"):
    compare(name, lambda: score(name))
compare("qlearning_dataset", lambda: d4rl.qlearning_dataset(gym.make("maze2d-umaze-local-v1")))
"""
FUNCTIONS = r"""
from dataclasses import replace
import cepnb
from cepnb.densities.settings import toy_settings
from cepnb.qgpo.settings import qgpo_settings

schedule, data = cepnb.VPSchedule(), {}
toy = replace(toy_settings("ci"), steps=3, score_steps=3, samples=5, sampler_steps=2)
ring = lambda n, generator: torch.randn(n, 2, generator=generator)
energy = lambda x: x[..., 0]
t, two = torch.tensor(0.5), torch.zeros(2, 3)
eps = lambda x, t, condition=None: x

def qgpo():
    from cepnb.datasets.registry import load_dataset
    settings = qgpo_settings("ci", "maze2d-umaze", **small)
    dataset = load_dataset("local/maze2d-umaze", settings.transitions, 0)
    cepnb.run_qgpo(dataset, "maze2d-umaze", settings, "ci", 0, Path("run"), progress=False)

def policy():
    for source in ("hopper-medium-expert", Path("run")):
        cepnb.load_policy(source, seed=0)(numpy.zeros(11 if source != Path("run") else 4))

# New networks draw their weights from torch's random state, as all torch modules do; calls draw nothing.
with torch.random.fork_rng():
    networks = cepnb.EpsNet(2, 3, (8,), embedding=8), cepnb.EnergyNet(2, 3, 8), cepnb.QEnsemble(3, 2, 8, 2)
CALLS = {
    "VPSchedule": lambda: cepnb.VPSchedule().add_noise(torch.zeros(2, 2), t, torch.zeros(2, 2)),
    "EpsNet": lambda: networks[0](torch.zeros(2, 2), t, torch.zeros(2, 3)),
    "EnergyNet": lambda: networks[1](torch.zeros(2, 2), t, torch.zeros(2, 3)),
    "QEnsemble": lambda: networks[2](torch.zeros(2, 3), torch.zeros(2, 2)),
    "noise_prediction": lambda: cepnb.noise_prediction(two, two),
    "cep": lambda: cepnb.cep(two, two),
    "cep_self_normalised": lambda: cepnb.cep_self_normalised(two, two),
    "softmax_q_target": lambda: cepnb.softmax_q_target(torch.zeros(2), torch.zeros(2, dtype=torch.bool), two, 1.0, 0.9),
    "guided": lambda: cepnb.guided(eps, eps, schedule)(torch.zeros(2, 2), t),
    "dpm_solver_pp": lambda: list(cepnb.dpm_solver_pp(eps, torch.zeros(2, 2), schedule.times(2), schedule)),
    "own_density": lambda: cepnb.own_density(ring, energy, 10, torch.Generator()),
    "fit_guidance": lambda: cepnb.fit_guidance(ring, energy, 1.0, settings=toy, progress=False).sample(5),
    "run_qgpo": qgpo,
    "load_policy": policy,
}
assert set(CALLS) == set(cepnb.__all__) - {"__version__"}
for name, call in CALLS.items():
    compare(name, call)
"""
PICTURES = r"""
from cepnb.densities import benchmark
from cepnb.densities.metrics import mmd, w2

def sliders():
    from cepnb.notebook import plots
    from cepnb.notebook.sliders import frames, layers, widgets
    beta = frames.beta_slider([1.0, 2.0], 1.0)
    points = layers.Points(torch.zeros(2, 5, 2), ("beta",), "x")
    widgets.BetaExplorer([beta], [frames.Panel("p", (points,))], "d").to_html("page.html")
    live = lambda b: [frames.Panel("p", (layers.Points(torch.zeros(5, 2), ()),))]
    widgets.LiveExplorer(live, [beta], "d").move(beta=2.0)
    widgets.Explorer(lambda b: plots.figure()[0], beta, "d")._repr_mimebundle_()

def films():
    from cepnb.envs.locomotion import LocomotionEnv
    from cepnb.notebook.film import show_films
    env = LocomotionEnv("hopper", 1, 0)
    env.reset()
    show_films({"a": [env.body(0)]}, {"a": "#000000"}, "a")

def scores():
    from cepnb.notebook import plots, score_plots
    record = {"method": "cep", "scale": 1.0, "normalised": 5.0, "normalised_se": 1.0}
    plots.picture(score_plots.score_figure([record]), "d")

def densities():
    for name in ("8gaussians", "moons"):
        models = benchmark.shipped(name)
        x, _ = models.density.sample(20, torch.Generator())
        w2(x, x), mmd(x, x)

for call in (sliders, films, scores, densities):
    compare(call.__name__, call)
"""
COMMANDS = r"""
from cepnb.cli import main
Path("sweep.toml").write_text('datasets = ["local/maze2d-umaze"]\nseeds = [0]\nprofile = "ci"\n[set]\n' + "\n".join(
    f"{key} = {json.dumps(value)}" for key, value in small.items()), encoding="utf-8")
settings = [text for key, value in small.items() for text in ("--set", f"{key}={value!r}")]
qgpo = ["--dataset", "local/maze2d-umaze", "--profile", "ci", "--out", "run", *settings]
COMMANDS = {
    "data": ["--dataset", "local/maze2d-umaze", "--profile", "ci"],
    "qgpo": qgpo,
    "evaluate": ["run", "--environment", "maze2d-umaze"],
    "export": ["run", "policy.safetensors"],
    "sweep": ["sweep.toml", "--out", "sweep", "--workers", "1"],
    "report": ["sweep"],
    "settings": [],
    "toy": ["--density", "8gaussians", "--method", "cep_self", "--beta", "1", "--profile", "ci", "--out", "toy"],
    "bench": ["--rows", "frames", "toy", "--repeats", "1"],
    "bench-run": ["--device", "cpu", "--fraction", "0.1", "--out", "bench", *settings],
}
def run(name):
    status = main([name, *COMMANDS[name]])
    assert status == 0, (name, status)

for name in COMMANDS:
    compare(name, lambda: run(name))
"""


def run(code: str, folder: Path, *options: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"CEPNB_PROFILE": "ci", "PYTHONPATH": str(ROOT)}
    environment["MUJOCO_PY_MUJOCO_PATH"] = "/nowhere"
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, encoding="utf-8"
    )


def changes(code: str, folder: Path) -> dict[str, object]:
    """Run code that calls `compare` in a new process; return what changed, by call."""
    start = f"from pathlib import Path\n{SNAPSHOT}{SMALL}"
    end = '\nPath("changed.json").write_text(json.dumps(changed), encoding="utf-8")'
    done = run(f"{start}{code}{end}", folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "changed.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(D4RL, id="imports and d4rl"),
        pytest.param(FUNCTIONS, id="functions"),
        pytest.param(PICTURES, id="pictures"),
        pytest.param(COMMANDS, id="commands"),
    ],
)
def test_calls_leave_the_process_as_it_was(code: str, tmp_path: Path) -> None:
    found = changes(code, tmp_path)
    assert not found, "\n".join(f"{name}: {change}" for name, change in found.items())


def test_every_command_is_compared() -> None:
    """All but `agent`, whose packages are not installed."""
    (commands,) = [action.choices for action in _parser()._actions if action.choices]
    assert set(commands) - {"agent"} == {name for name in commands if f'    "{name}": ' in COMMANDS}


@pytest.mark.parametrize(
    "more", ["", "import gym; gym.make('maze2d-umaze-v1').get_normalized_score(1)"]
)
def test_logging_works_after_the_imports_for_d4rl(more: str, tmp_path: Path) -> None:
    code = f"""
import logging, cepnb.d4rl_compat
{more}
logging.basicConfig(level=logging.INFO, format="%(message)s")
logging.info("a")
logging.warning("b")
"""
    done = run(code, tmp_path)
    assert done.returncode == 0 and done.stderr.splitlines()[-2:] == ["a", "b"], done.stderr
    assert "Logging error" not in done.stderr
