"""Films of planar bodies: capsules agree with the model, and the GIF has a frame per body."""

import base64
import io

import numpy as np
import pytest
from IPython.display import HTML
from PIL import Image, ImageColor, ImageSequence

from cepnb.envs.antmaze import AntMazeEnv, Floor
from cepnb.envs.locomotion import LocomotionEnv
from cepnb.envs.registry import TASKS
from cepnb.errors import CepnbError
from cepnb.notebook.film import ELEVATION, FLOOR_METRE, HEIGHT, WIDTH, show_films
from cepnb.notebook.plots import GOAL, WALL

pytestmark = pytest.mark.filterwarnings("ignore")


def test_capsules_agree_with_the_mujoco_model_at_reset() -> None:
    """gymnasium's hopper starts with its torso at 1.05 to 1.45 m, its foot on the ground, ± 5 mm."""
    env = LocomotionEnv("hopper", 1, 0)
    env.reset()
    ends, radii = env.body(0)
    assert ends.shape == (4, 2, 2) and radii.tolist() == [0.05, 0.05, 0.04, 0.06]
    np.testing.assert_allclose(sorted(ends[0, :, 1]), [1.05, 1.45], atol=0.01)
    top_of_thigh, bottom_of_torso = ends[1][ends[1][:, 1].argmax()], ends[0][ends[0][:, 1].argmin()]
    np.testing.assert_allclose(top_of_thigh, bottom_of_torso, atol=0.01)
    assert (ends[..., 1].min(axis=1) - radii).min() > -0.01  # above the ground
    for name in TASKS:
        other = LocomotionEnv(name, 1, 0)
        other.reset()
        assert len(other.body(0)[1]) == {"hopper": 4, "walker2d": 7, "halfcheetah": 8}[name]


def test_a_film_is_one_gif_with_one_frame_per_body() -> None:
    env = LocomotionEnv("walker2d", 1, 0)
    env.reset()
    bodies = []
    for _ in range(6):
        env.step(np.ones((1, 6)))
        bodies.append(env.body(0))
    shown = show_films(
        {"one": bodies, "two": bodies[:2]}, {"one": "#0072B2", "two": "#D55E00"}, "two <films>"
    ).data
    assert 'alt="two &lt;films&gt;"' in shown
    picture = Image.open(io.BytesIO(base64.b64decode(shown.split("base64,")[1].split('"')[0])))
    assert picture.size == (2 * WIDTH, HEIGHT) and picture.n_frames == 6
    first = np.asarray(picture.convert("RGB"), dtype=int)
    picture.seek(5)
    last = np.asarray(picture.convert("RGB"), dtype=int)
    moved = np.abs(first - last).sum(axis=2) > 60
    assert moved[:, :WIDTH].sum() > 200
    blue, orange = (
        (first[:, part] * [-1, 0, 1]).sum(axis=2) for part in (slice(0, WIDTH), slice(WIDTH, None))
    )
    assert (blue > 100).sum() > 500 and (orange < -100).sum() > 500
    with pytest.raises(CepnbError, match="film 'none' has no frames; pass at least one"):
        show_films({"none": []}, {"none": "red"}, "")
    with pytest.raises(CepnbError, match="there is no film; pass at least one"):
        show_films({}, {}, "")
    bad = (np.full((1, 2, 2), np.nan), np.ones(1))
    with pytest.raises(CepnbError, match="film 'bad': 4 of 5 values are not finite; end it"):
        show_films({"bad": [bad]}, {"bad": "red"}, "")


def frames_of(shown: HTML) -> list[np.ndarray]:
    picture = Image.open(io.BytesIO(base64.b64decode(shown.data.split("base64,")[1].split('"')[0])))
    return [
        np.asarray(frame.convert("RGB"), dtype=int) for frame in ImageSequence.Iterator(picture)
    ]


def near(pixels: np.ndarray, colour: str) -> np.ndarray:
    return np.abs(pixels - ImageColor.getrgb(colour)).max(axis=-1) < 12


def test_ants_are_seen_from_above_in_their_maze() -> None:
    env = AntMazeEnv("antmaze-umaze", 1, 0)
    start, floor = env.reset(), env.floor(0)
    ends, radii = env.body(0)
    assert ends.shape == (13, 2, 3) and radii.tolist() == [0.25] + 12 * [0.08]
    np.testing.assert_allclose(ends[0], np.tile(start[0, :3], (2, 1)))  # the torso is a sphere
    legs = np.linalg.norm(ends[1:, 0] - ends[1:, 1], axis=1)
    np.testing.assert_allclose(sorted(legs), 8 * [0.08**0.5] + 4 * [0.32**0.5], atol=1e-6)
    walls = floor.walls
    assert walls.shape == (5 * 5 - 7, 4) and floor.goal.tolist() == env.goals()[0].tolist()
    inside = lambda x, y: ((walls[:, :2] < (x, y)) & ((x, y) < walls[:, 2:])).all(axis=1).any()
    free = [(0, 0), (4, 0), (8, 0), (8, 4), (8, 8), (4, 8), (0, 8)]  # the U, from the start
    assert [inside(x, y) for x, y in free] == 7 * [False]
    assert inside(0, 4) and inside(4, 4) and inside(-4, 0) and inside(12, 8)
    moved = lambda x, y: (ends + [x - ends[..., 0].mean(), y - ends[..., 1].mean(), 0.0], radii)
    x, y = floor.goal
    film = [moved(0, 0), moved(1, 0), moved(x + 1, y)]
    first, beside, at_goal = frames_of(show_films({"ant": film}, {"ant": "#0072B2"}, "", floor))
    for frame, wall in ((first, -2.0), (beside, -3.0)):  # the nearest wall on the left
        grey = np.flatnonzero(near(frame[HEIGHT // 2], WALL))
        edge = grey[grey < WIDTH // 2].max() - WIDTH // 2
        assert edge / FLOOR_METRE == pytest.approx(wall, abs=0.1)
        assert not near(frame, GOAL).any()
    above = near(first[:, WIDTH // 2 - 60], WALL)  # a column left of the ant
    up = (HEIGHT // 2 - np.flatnonzero(above[: HEIGHT // 2]).max()) / FLOOR_METRE
    height = ends[..., 2].mean()  # the view is centred on the ant, which is above the floor
    assert up == pytest.approx(2 * np.sin(ELEVATION) - height * np.cos(ELEVATION), abs=0.1)
    rows, columns = near(at_goal, GOAL).nonzero()
    assert (columns.mean() - WIDTH / 2) / FLOOR_METRE == pytest.approx(-1, abs=0.15)
    assert np.ptp(columns) / FLOOR_METRE == pytest.approx(1, abs=0.15)


def test_only_ants_have_a_floor() -> None:
    env = AntMazeEnv("antmaze-umaze", 1, 0)
    env.reset()
    floor, ant, planar = env.floor(0), env.body(0), (np.zeros((4, 2, 2)), np.ones(4))
    with pytest.raises(CepnbError, match="film 'a': only ants need a floor; pass theirs, or none"):
        show_films({"a": [ant]}, {"a": "red"}, "")
    with pytest.raises(CepnbError, match="film 'b': only ants need a floor; pass theirs, or none"):
        show_films({"b": [planar]}, {"b": "red"}, "", floor)
    with pytest.raises(CepnbError, match="floor: 1 of 74 values are not finite"):
        show_films({"a": [ant]}, {"a": "red"}, "", Floor(floor.walls, np.array([0.0, np.nan])))
