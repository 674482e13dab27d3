"""Tests of D4RL's environments on the modern engine: against cepnb's and gymnasium's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from serving import serving

from cepnb.datasets.registry import load_dataset
from cepnb.envs.maze import MazeEnv
from cepnb.errors import CepnbError
from cepnb.qgpo.settings import qgpo_settings

# A separate process, because the stand-in occupies the name mujoco_py. It does what code for D4RL does.
CLIENT = """
import cepnb.d4rl_compat
import json, sys
import d4rl, gym
import numpy as np
name, steps = sys.argv[1], int(sys.argv[2])
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
    for key, value in (("observations", observation.tolist()), ("actions", action.tolist()), ("rewards", float(reward)),
                       ("dones", bool(done))):
        found[key].append(value)
found |= {"truncated": info.get("TimeLimit.truncated", False), "score": env.get_normalized_score(100.0)}
if "local" in name:
    data = d4rl.qlearning_dataset(env)
    found["dataset"] = {key: [list(value.shape), float(np.sum(value, dtype=np.float64))] for key, value in data.items()}
    found["raw"] = sorted(env.get_dataset())
print(json.dumps(found))
"""


def client(name: str, steps: int) -> dict:
    environment = os.environ | {"MUJOCO_PY_MUJOCO_PATH": "/nowhere"}
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CLIENT, name, str(steps)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def test_maze2d_equals_ours_bit_for_bit_and_so_does_its_dataset() -> None:
    found = client("maze2d-umaze-local-v1", 1000)
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


def test_locomotion_with_local_data() -> None:
    found = client("halfcheetah-medium-replay-local-v2", 5)
    assert np.shape(found["observations"])[1] == 17 and found["score"] == pytest.approx(
        (100 + 280.178953) / (12135 + 280.178953)
    )
    assert_dataset(found, "local/halfcheetah-medium-replay")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name, modern",
    [
        ("hopper-medium-v2", "Hopper-v4"),
        ("halfcheetah-medium-v2", "HalfCheetah-v4"),
        ("walker2d-medium-v2", "Walker2d-v4"),
    ],
)
def test_locomotion_equals_gymnasiums(name: str, modern: str) -> None:
    """Compare gym on the stand-in with gymnasium on mujoco: states, rewards and ends."""
    import gymnasium

    found = client(name, 100)
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


def test_ant_and_its_mazes_run() -> None:
    assert np.shape(client("ant-medium-v2", 20)["observations"])[1] == 111
    assert np.shape(client("antmaze-umaze-v2", 20)["observations"])[1] == 29


def test_names_states_and_instability(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cepnb.envs import mujoco_py_standin as mujoco_py

    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log there

    model = mujoco_py.load_model_from_xml(
        '<mujoco><worldbody><light pos="0 0 3"/><body name="b" pos="0 0 1"><freejoint name="j"/><geom name="g" size="0.1"/>'
        '<site name="s"/></body></worldbody></mujoco>'
    )
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
        ran = subprocess.run(
            [
                sys.executable,
                "-W",
                "ignore",
                "-c",
                code if present else code.replace("real = MagicMock()", "real = None"),
            ],
            capture_output=True,
            text=True,
            env=os.environ | {"MUJOCO_PY_MUJOCO_PATH": str(place)},
        )
        assert ran.stdout == f"{present} 300\n", ran.stderr


# Read a published file through d4rl's own environment.
PUBLISHED = """
import cepnb.d4rl_compat
import sys
import d4rl, gym
from cepnb.errors import CepnbError
env = gym.make("maze2d-umaze-v1")
env.unwrapped.dataset_url = env.unwrapped._dataset_url = sys.argv[1]
try:
    print(d4rl.qlearning_dataset(env)["rewards"].shape)
except CepnbError as error:
    print(error)
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
    environment = os.environ | {
        "MUJOCO_PY_MUJOCO_PATH": "/nowhere",
        "D4RL_DATASET_DIR": str(own.parent),
    }

    def printed(url: str) -> str:
        command = [sys.executable, "-W", "ignore", "-c", PUBLISHED, url]
        ran = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.splitlines()[-1]

    with serving((tmp_path / "source.hdf5").read_bytes()) as server:
        server.faults = ["cut"]
        assert (
            printed(server.url) == "(300,)"
            and own.read_bytes() == server.content
            and len(server.requests) == 2
        )
        own.write_bytes(server.content[:-1000])  # d4rl itself leaves this after a broken download
        assert (
            printed(server.url) == f"{own}: the file is incomplete; delete it to download it again"
        )
        assert len(server.requests) == 2


def test_local_names_are_not_published_names() -> None:
    with pytest.raises(CepnbError, match="not in d4rl's table"):
        load_dataset("d4rl/maze2d-umaze-local-v1", 0, 0)
