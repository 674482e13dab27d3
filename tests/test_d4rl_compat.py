"""Tests of D4RL's environments on the modern engine: against cepnb's and gymnasium's."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import h5py
import mujoco
import numpy as np
import pytest
from serving import serving

from cepnb.datasets.registry import QUALITIES, load_dataset
from cepnb.envs.maze import LAYOUTS, MazeEnv
from cepnb.envs.registry import ANTMAZES, TASKS
from cepnb.errors import CepnbError
from cepnb.qgpo.settings import qgpo_settings

ROOT = Path(__file__).parent.parent
# A separate process, because the stand-in occupies the name mujoco_py. It does what code for D4RL does.
CLIENT = """
import cepnb.d4rl_compat
import json, sys
import d4rl, gym
import numpy as np
def episode(name, steps):
    env = gym.make(name)
    env.seed(3)
    env.action_space.seed(3)
    found = {"observations": [env.reset().tolist()], "actions": [], "rewards": [], "dones": []}
    mujoco_env = env.unwrapped if "maze2d" in name else env.unwrapped.wrapped_env
    found["qpos"], found["qvel"] = mujoco_env.sim.data.qpos.tolist(), mujoco_env.sim.data.qvel.tolist()
    done = False
    while not done and len(found["actions"]) < steps:
        action = env.action_space.sample()
        observation, reward, done, info = env.step(action)
        for key, value in (("observations", observation.tolist()), ("actions", action.tolist()),
                           ("rewards", float(reward)), ("dones", bool(done))):
            found[key].append(value)
    found |= {"truncated": info.get("TimeLimit.truncated", False), "score": env.get_normalized_score(100.0)}
    if "local" in name:
        data = d4rl.qlearning_dataset(env)
        found["dataset"] = {key: [list(value.shape), float(np.sum(value, dtype=np.float64))] for key, value in data.items()}
        found["raw"] = sorted(env.get_dataset())
    return found
found = {name: episode(name, steps) for name, steps in json.loads(sys.argv[1]).items()}
found["names"] = sorted(spec.id for spec in gym.envs.registry.all() if "-local-" in spec.id)
print(json.dumps(found))
"""
STEPS = {
    "maze2d-umaze-local-v1": 1000,
    "hopper-medium-local-v2": 5,
    "antmaze-umaze-local-v2": 5,
    "hopper-medium-v2": 100,
    "halfcheetah-medium-v2": 100,
    "walker2d-medium-v2": 100,
    "ant-medium-v2": 20,
    "antmaze-umaze-v2": 20,
}


def run(code: str, *arguments: str, **environment: str) -> str:
    """Run code in a new process and return its last line."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"MUJOCO_PY_MUJOCO_PATH": "/nowhere"} | environment,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def client() -> dict:
    """One episode of each environment in `STEPS` and the local names, from one process."""
    return json.loads(run(CLIENT, json.dumps(STEPS)))


def test_maze2d_equals_ours_bit_for_bit_and_so_does_its_dataset(client: dict) -> None:
    found = client["maze2d-umaze-local-v1"]
    assert (
        len(found["rewards"]) == 300
        and found["truncated"]
        and found["dones"] == [False] * 299 + [True]
    )
    env = MazeEnv("umaze", 1, 0)
    env.reset()
    env.set_state(np.array([found["observations"][0]]))
    for action, expected, reward in zip(
        found["actions"], found["observations"][1:], found["rewards"], strict=True
    ):
        observation, ours, *_ = env.step(np.array([action]))
        assert observation[0].tolist() == expected and ours[0] == reward
    assert found["score"] == pytest.approx((100 - 23.85) / (161.86 - 23.85))
    assert {"observations", "actions", "rewards", "terminals", "timeouts", "infos/goal"} <= set(
        found["raw"]
    )
    assert_dataset(found, "local/maze2d-umaze")


def assert_dataset(found: dict, name: str) -> None:
    """Compare the transitions that d4rl derives from local data with ours."""
    chosen = qgpo_settings()
    data = load_dataset(name, chosen.transitions, chosen.data_seed)
    for key, (shape, total) in found["dataset"].items():
        ours = getattr(data, key)
        assert list(ours.shape) == shape and ours.double().sum().item() == pytest.approx(
            total, abs=1e-6
        ), key


def test_locomotion_with_local_data(client: dict) -> None:
    found = client["hopper-medium-local-v2"]
    assert np.shape(found["observations"])[1] == 11 and found["score"] == pytest.approx(
        (100 + 20.272305) / (3234.3 + 20.272305)
    )
    assert_dataset(found, "local/hopper-medium")
    mazes = [f"maze2d-{maze}-local-{kind}" for maze in LAYOUTS for kind in ("noisy-v1", "v1")]
    ants = [f"{maze}-local-v2" for maze in ANTMAZES]
    bodies = [f"{task}-{quality}-local-v2" for task in TASKS for quality in QUALITIES]
    assert client["names"] == sorted(mazes + bodies + ants)


def test_antmaze_with_local_data(client: dict) -> None:
    found = client["antmaze-umaze-local-v2"]
    assert np.shape(found["observations"])[1] == 29 and found["score"] == 100
    assert_dataset(found, "local/antmaze-umaze")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name, modern",
    [
        ("hopper-medium-v2", "Hopper-v4"),
        ("halfcheetah-medium-v2", "HalfCheetah-v4"),
        ("walker2d-medium-v2", "Walker2d-v4"),
    ],
)
def test_locomotion_equals_gymnasiums(client: dict, name: str, modern: str) -> None:
    """Compare gym on the stand-in with gymnasium on mujoco: states, rewards and ends."""
    import gymnasium

    found = client[name]
    env = gymnasium.make(modern).unwrapped
    env.reset(seed=0)
    env.set_state(np.array(found["qpos"]), np.array(found["qvel"]))
    assert len(found["rewards"]) > 8
    for action, expected, reward, done in zip(
        found["actions"], found["observations"][1:], found["rewards"], found["dones"], strict=True
    ):
        scaled = (
            -1 + (np.array(action, dtype=np.float32) + 1) * np.float32(0.5) * 2
        )  # d4rl's wrapper rounds like this
        observation, ours, terminated, *_ = env.step(scaled)
        np.testing.assert_allclose(observation, expected, rtol=1e-6, atol=1e-6)
        assert ours == pytest.approx(reward, abs=1e-4) and terminated == done


def test_ant_and_its_mazes_run(client: dict) -> None:
    assert np.shape(client["ant-medium-v2"]["observations"])[1] == 111
    assert np.shape(client["antmaze-umaze-v2"]["observations"])[1] == 29


def test_names_states_and_instability(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cepnb.envs import mujoco_py_standin as mujoco_py

    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log there

    (tmp_path / "model.xml").write_text(
        '<mujoco><worldbody><light pos="0 0 3"/><body name="b" pos="0 0 1"><freejoint name="j"/><geom name="g" size="0.1"/>'
        '<site name="s"/></body></worldbody></mujoco>'
    )
    model = mujoco_py.load_model_from_path(str(tmp_path / "model.xml"))
    sim = mujoco_py.MjSim(model)
    assert (
        model.body_name2id("b") == 1 and model._camera_name2id == {} and model.joint_names == ("j",)
    )
    assert (
        model.geom_id2name(0) == "g"
        and sim.data.get_body_xpos("b").tolist()
        == [0, 0, 1]
        == sim.data.get_site_xpos("s").tolist()
    )
    start = sim.get_state()
    sim.step()
    assert sim.data.time > 0 and not np.array_equal(sim.data.qpos, start.qpos)
    sim.set_state(start)
    assert sim.data.time == 0 and np.array_equal(sim.data.qpos, start.qpos)
    sim.data.qvel[0] = np.nan
    with pytest.raises(mujoco_py.MujocoException, match="BADQVEL"):
        sim.step()
    for values in (start.qpos * np.nan, start.qpos + np.inf):
        sim.set_state(start._replace(qpos=values))
        with pytest.raises(mujoco_py.MujocoException, match="qpos or qvel is not finite"):
            sim.forward()
    with pytest.raises(KeyError):
        model.site_name2id("none")


def test_installed_mujoco_21_is_not_replaced(tmp_path: Path) -> None:
    """If MuJoCo 2.1's folder exists, the installed mujoco_py is used."""
    code = (
        "import sys; from unittest.mock import MagicMock; sys.modules['mujoco_py'] = real = MagicMock(); import cepnb.d4rl_compat\n"
        "import gym; print(sys.modules['mujoco_py'] is real, gym.spec('maze2d-umaze-local-v1').max_episode_steps)"
    )
    for present in (True, False):
        place = tmp_path if present else tmp_path / "none"
        code = code if present else code.replace("real = MagicMock()", "real = None")
        assert run(code, MUJOCO_PY_MUJOCO_PATH=str(place)) == f"{present} 300"


# Read a published file through d4rl's own environment, and again after cutting its end.
PUBLISHED = """
import cepnb.d4rl_compat
import os, shutil, sys
import d4rl, gym
from cepnb.errors import CepnbError
url, path = sys.argv[1:]
def shape():
    env = gym.make("maze2d-umaze-v1")
    env.unwrapped.dataset_url = env.unwrapped._dataset_url = url
    try:
        return d4rl.qlearning_dataset(env)["rewards"].shape
    except CepnbError as error:
        return error
whole = shape()
shutil.copy(path, path + ".whole")
os.truncate(path, os.path.getsize(path) - 1000)  # d4rl itself leaves this after a broken download
print(f"{whole} {shape()}")
"""


def test_published_downloads_resume_and_cut_files_raise(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "source.hdf5", "w") as file:
        file["observations"], file["actions"] = np.random.rand(301, 4), np.random.rand(301, 2)
        file["rewards"], file["terminals"], file["timeouts"] = (
            np.zeros((301, 1), kind) for kind in (float, bool, bool)
        )
        file["infos/goal"], file["metadata/algorithm"] = (
            np.random.rand(100_000),
            np.bytes_(b"waypoints"),
        )
    own = tmp_path / "own/data.hdf5"
    with serving((tmp_path / "source.hdf5").read_bytes()) as server:
        server.faults = ["cut"]
        line = run(PUBLISHED, server.url, str(own), D4RL_DATASET_DIR=str(own.parent))
        problem = f"{own}: the file is incomplete; delete it to download it again"
        assert line == f"(300,) {problem}" and len(server.requests) == 2
        assert Path(f"{own}.whole").read_bytes() == server.content
        assert own.read_bytes() == server.content[:-1000]


def test_local_names_are_not_published_names() -> None:
    with pytest.raises(CepnbError, match="not in d4rl's table"):
        load_dataset("d4rl/maze2d-umaze-local-v1", 0, 0)


# Push the mass to the goal, then give NaN actions: MuJoCo would ignore them and the mass would stay.
NAN_ACTIONS = """
import cepnb.d4rl_compat
import gym, mujoco_py
import numpy as np
for name in ("maze2d-umaze-local-v1", "hopper-medium-v2", "antmaze-umaze-v2"):
    env = gym.make(name)
    env.reset()
    try:
        env.step(np.full(env.action_space.shape, np.nan))
    except mujoco_py.MujocoException as error:
        print(name, error)
"""


def test_actions_that_are_not_finite_raise_as_in_mujoco_py(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", NAN_ACTIONS],
        capture_output=True,
        text=True,
        cwd=tmp_path,  # MuJoCo writes its log there
        env=os.environ | {"MUJOCO_PY_MUJOCO_PATH": "/nowhere", "PYTHONPATH": str(ROOT)},
    )
    lines = [line for line in ran.stdout.splitlines() if "MuJoCo Warning: mjWARN_BADCTRL" in line]
    assert ran.returncode == 0 and len(lines) == 3, (ran.stdout, ran.stderr)


# Copy environments in the middle of an episode, also in a process that is spawned.
COPIES = """
import cepnb.d4rl_compat
import copy, multiprocessing, pickle, sys
import gym
import numpy as np
def steps(env, actions):
    return [env.step(action)[:2] for action in actions] + [env.reset()]
def continued(stored, actions):
    return pickle.dumps(steps(pickle.loads(stored), actions))
if __name__ == "__main__":
    pool = multiprocessing.get_context("spawn").Pool(1)
    for name in ("maze2d-large-local-v1", "hopper-medium-local-v2", "maze2d-large-v1"):
        env = gym.make(name)
        env.seed(0), env.action_space.seed(0), env.reset()
        actions = [env.action_space.sample() for _ in range(6)]
        space, stored, copied = copy.deepcopy(env.action_space), pickle.dumps(env), copy.deepcopy(env)
        assert np.array_equal(space.sample(), env.action_space.sample())
        found, spawned = steps(copied, actions), pickle.loads(pool.apply(continued, (stored, actions)))
        expected = steps(env, actions)
        assert str(found) == str(spawned) == str(expected), name
        print(copied.spec.id, sorted(copied.get_dataset())[0] if "local" in name else "")
    pool.terminate()
"""


def test_environments_and_spaces_are_copied_and_pickled_exactly(tmp_path: Path) -> None:
    (tmp_path / "copies.py").write_text(COPIES)
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", str(tmp_path / "copies.py")],
        capture_output=True,
        text=True,
        env=os.environ | {"MUJOCO_PY_MUJOCO_PATH": "/nowhere", "PYTHONPATH": str(ROOT)},
    )
    names = [line.split()[0] for line in ran.stdout.splitlines() if "-v" in line]
    expected = ["maze2d-large-local-v1", "hopper-medium-local-v2", "maze2d-large-v1"]
    assert names == expected, (ran.stdout, ran.stderr)


@pytest.mark.parametrize("protocol", [0, 1])
def test_old_pickles_are_refused(protocol: int) -> None:
    """Loading one would abort the process."""
    from cepnb.envs import mujoco_py_standin as mujoco_py

    model = mujoco_py.Model(mujoco.MjModel.from_xml_string("<mujoco/>"))
    for holder in (model, mujoco_py.Data(model), mujoco_py.MjSim(model)):
        with pytest.raises(CepnbError, match=f"^pickle protocol {protocol}: use protocol 2 or hi"):
            pickle.dumps(holder, protocol)
        assert pickle.loads(pickle.dumps(holder, 2))
