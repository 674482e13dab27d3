"""What D4RL and gym 0.23 use of `mujoco_py`, on the modern `mujoco` package: models, simulation, states, pictures.

Only `cepnb.d4rl_compat` puts this in the place of `mujoco_py`, and only where MuJoCo 2.1 is not installed. The engine is
newer than the one that made D4RL's data; constants and equations of the models are theirs.
"""

import logging
import xml.etree.ElementTree as xml
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import mujoco
from numpy import ndarray as Array

from cepnb.envs.d4rl_package import silence


class MujocoException(Exception):
    """The simulation has left what it can compute (positions, velocities or accelerations not finite or huge)."""


class MjSimState(NamedTuple):
    """A state to be set again."""

    time: float
    qpos: Array
    qvel: Array
    act: Array | None
    udd_state: dict


class _Model:
    """A compiled model with mujoco_py's lookups by name."""

    def __init__(self, compiled: mujoco.MjModel) -> None:
        self.compiled, self._ids = compiled, {}

    def __getattr__(self, name: str) -> object:
        if name in ("compiled", "_ids"):  # while being unpickled or copied
            raise AttributeError(name)
        kind, _, what = name.rpartition("_")
        if what == "name2id" and kind.removeprefix("_") in _KINDS:
            ids = self._ids.setdefault(kind.removeprefix("_"), {})
            if not ids:  # once a kind: names do not change, and environments ask in every step
                ids.update(
                    {
                        self._name(kind.removeprefix("_"), i): i
                        for i in range(self._count(kind.removeprefix("_")))
                    }
                )
            return ids if kind.startswith("_") else ids.__getitem__
        if what == "names" and kind in _KINDS:
            return tuple(self._name(kind, i) for i in range(self._count(kind)))
        if what == "id2name" and kind in _KINDS:
            return lambda i: self._name(kind, i)
        return getattr(self.compiled, name)

    def _count(self, kind: str) -> int:
        return getattr(self.compiled, _KINDS[kind])

    def _name(self, kind: str, i: int) -> str | None:
        return mujoco.mj_id2name(self.compiled, getattr(mujoco.mjtObj, f"mjOBJ_{kind.upper()}"), i)


_KINDS = {
    "body": "nbody",
    "joint": "njnt",
    "geom": "ngeom",
    "site": "nsite",
    "camera": "ncam",
    "actuator": "nu",
    "sensor": "nsensor",
}


class _Data:
    """The simulation's arrays, live, with mujoco_py's getters by name."""

    def __init__(self, model: _Model) -> None:
        self.model, self.raw = model, mujoco.MjData(model.compiled)

    def __getattr__(self, name: str) -> object:
        if name in ("model", "raw"):
            raise AttributeError(name)
        if name.startswith("get_"):
            kind, _, what = name.removeprefix("get_").partition("_")
            return lambda key: getattr(
                self.raw, {"body": "", "geom": "geom_", "site": "site_"}[kind] + what
            )[getattr(self.model, f"{kind}_name2id")(key)]
        return getattr(self.raw, name)


class MjSim:
    """A model and its data, stepped `nsubsteps` times at once."""

    def __init__(self, model: _Model, nsubsteps: int = 1) -> None:
        self.model, self.data, self.nsubsteps = model, _Data(model), nsubsteps
        mujoco.mj_forward(model.compiled, self.data.raw)

    def step(self) -> None:
        for _ in range(self.nsubsteps):
            mujoco.mj_step(self.model.compiled, self.data.raw)
        self._check()

    def forward(self) -> None:
        mujoco.mj_forward(self.model.compiled, self.data.raw)

    def reset(self) -> None:
        mujoco.mj_resetData(self.model.compiled, self.data.raw)

    def get_state(self) -> MjSimState:
        raw = self.data.raw
        return MjSimState(
            raw.time, raw.qpos.copy(), raw.qvel.copy(), raw.act.copy() if raw.act.size else None, {}
        )

    def set_state(self, state: MjSimState) -> None:
        raw = self.data.raw
        raw.time, raw.qpos[:], raw.qvel[:] = state.time, state.qpos, state.qvel
        if state.act is not None:
            raw.act[:] = state.act

    def render(
        self, width: int, height: int, camera_name: str | None = None, depth: bool = False
    ) -> Array:
        """A picture, its rows from bottom to top as mujoco_py gives them."""
        context = MjRenderContextOffscreen(self)
        context.render(
            width, height, -1 if camera_name is None else self.model.camera_name2id(camera_name)
        )
        return context.read_pixels(width, height, depth)

    def _check(self) -> None:
        for kind in _UNSTABLE:
            if self.data.raw.warning[kind].number:
                self.data.raw.warning[kind].number = 0
                raise MujocoException(
                    f"Got MuJoCo Warning: {kind.name}: a value is not finite or huge; the simulation is unstable"
                )


_UNSTABLE = (
    mujoco.mjtWarning.mjWARN_BADQPOS,
    mujoco.mjtWarning.mjWARN_BADQVEL,
    mujoco.mjtWarning.mjWARN_BADQACC,
)


class MjRenderContextOffscreen:
    """Pictures without a window, where OpenGL can be had (`MUJOCO_GL=egl` or `osmesa` on a machine without a screen)."""

    def __init__(self, sim: MjSim, device_id: int = -1) -> None:
        self.sim, self.cam = sim, mujoco.MjvCamera()
        mujoco.mjv_defaultFreeCamera(sim.model.compiled, self.cam)
        self._renderer, self._camera = None, self.cam

    def render(self, width: int, height: int, camera_id: int | None = None) -> None:
        if self._renderer is None or (self._renderer.width, self._renderer.height) != (
            width,
            height,
        ):
            offscreen = self.sim.model.compiled.vis.global_
            offscreen.offwidth, offscreen.offheight = (
                max(width, offscreen.offwidth),
                max(height, offscreen.offheight),
            )
            self._renderer = mujoco.Renderer(self.sim.model.compiled, height, width)
        self._camera = self.cam if camera_id is None or camera_id < 0 else camera_id
        self._renderer.update_scene(self.sim.data.raw, self._camera)

    def read_pixels(
        self, width: int, height: int, depth: bool = False
    ) -> Array | tuple[Array, Array]:
        color = self._renderer.render()[::-1]
        if not depth:
            return color
        self._renderer.enable_depth_rendering()
        distance = self._renderer.render()[::-1]
        self._renderer.disable_depth_rendering()
        return color, distance


class MjViewer:
    """A window; mujoco's own."""

    def __init__(self, sim: MjSim) -> None:
        from mujoco import viewer

        self._window = viewer.launch_passive(sim.model.compiled, sim.data.raw)
        self.cam = self._window.cam

    def render(self) -> None:
        self._window.sync()


def load_model_from_path(path: str) -> _Model:
    """Compile a model file. gym's hopper and walker2d give their parts in global coordinates, which MuJoCo has given up;
    gymnasium carries the same two models in local ones, and these are taken."""
    path = Path(path)
    compiler = xml.parse(path).getroot().find("compiler")
    if compiler is not None and compiler.get("coordinate") == "global":
        translated = (
            Path(find_spec("gymnasium").submodule_search_locations[0])
            / "envs/mujoco/assets"
            / path.name
        )
        path = translated if translated.exists() else path
    with _without_advice():
        return _Model(mujoco.MjModel.from_xml_path(str(path)))


def load_model_from_xml(text: str) -> _Model:
    """Compile a model given as text."""
    with _without_advice():
        return _Model(mujoco.MjModel.from_xml_string(text))


@contextmanager
def _without_advice() -> Iterator[None]:
    """Drop what the compiler says of old attributes (dm_control, which d4rl imports, sends it to absl's log): the models
    are D4RL's and stay as they are. Errors are exceptions and get through."""
    log = logging.getLogger("absl")
    before, log.disabled = log.disabled, True
    try:
        with silence():
            yield
    finally:
        log.disabled = before


def get_version() -> str:
    """The version of the engine."""
    return mujoco.__version__


__version__ = f"0 (cepnb's stand-in on mujoco {mujoco.__version__})"
