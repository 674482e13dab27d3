"""Films of planar bodies: capsules agree with the model, and the GIF has a frame per body."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from cepnb.envs.locomotion import LocomotionEnv
from cepnb.envs.registry import TASKS
from cepnb.errors import CepnbError
from cepnb.notebook.film import HEIGHT, WIDTH, show_films

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
