"""A stand-in for `mujoco_py` on the modern `mujoco`: the parts that D4RL and gym 0.23 use.

If MuJoCo 2.1 is missing, `d4rl_package.prepare_environments` installs it under the name `mujoco_py`.
The engine is newer than the one that made D4RL's data; the models' constants are the same.
"""

import xml.etree.ElementTree as xml
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import mujoco
import numpy as np
from numpy import ndarray as Array

from cepnb.envs.quiet import quiet
from cepnb.errors import CepnbError

__version__ = f"0 (cepnb's stand-in on mujoco {mujoco.__version__})"
# mujoco_py's kinds of named objects, and the model's field with their number.
COUNTS = {"body": "nbody", "joint": "njnt", "geom": "ngeom", "site": "nsite", "camera": "ncam"}
COUNTS |= {"actuator": "nu", "sensor": "nsensor"}
ARRAY_PREFIXES = {"body": "", "geom": "geom_", "site": "site_"}  # of arrays such as geom_xpos
Picture = Array | tuple[Array, Array]  # colours, or colours and depth


class MujocoException(Exception):
    """The engine warned: values are huge or not finite, or a buffer is full."""


class MjSimState(NamedTuple):
    """A state that `MjSim.set_state` restores."""

    time: float
    qpos: Array
    qvel: Array
    act: Array | None
    udd_state: dict


class Pickled:
    """Base of objects that hold mujoco's: loading those from protocol 0 or 1 aborts the process."""

    def __reduce_ex__(self, protocol: int) -> str | tuple:
        if protocol < 2:
            raise CepnbError(f"pickle protocol {protocol}: use protocol 2 or higher")
        return super().__reduce_ex__(protocol)


class Model(Pickled):
    """A compiled model with mujoco_py's tables of names: `body_name2id`, `joint_names`, ..."""

    def __init__(self, compiled: mujoco.MjModel) -> None:
        self.compiled = compiled
        for kind, count in COUNTS.items():
            code = getattr(mujoco.mjtObj, f"mjOBJ_{kind.upper()}")
            size = getattr(compiled, count)
            names = tuple(mujoco.mj_id2name(compiled, code, i) for i in range(size))
            ids = {name: i for i, name in enumerate(names)}
            setattr(self, f"{kind}_names", names)
            setattr(self, f"{kind}_id2name", names.__getitem__)
            setattr(self, f"{kind}_name2id", ids.__getitem__)
            setattr(self, f"_{kind}_name2id", ids)

    def __getattr__(self, name: str) -> object:
        """Read any other attribute from mujoco's model."""
        if name == "compiled" or name.startswith("__"):  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self.compiled, name)


class Data(Pickled):
    """The live arrays of a simulation with mujoco_py's getters, such as `get_body_xpos(name)`."""

    def __init__(self, model: Model) -> None:
        self.model, self.raw = model, mujoco.MjData(model.compiled)

    def __getattr__(self, name: str) -> object:
        """Return a getter for `get_KIND_QUANTITY`, else read the attribute of mujoco's data."""
        if name in ("model", "raw") or name.startswith("__"):  # of a copy that is being made
            raise AttributeError(name)
        if not name.startswith(("get_body_", "get_geom_", "get_site_")):
            return getattr(self.raw, name)
        _, kind, quantity = name.split("_", 2)
        array = getattr(self.raw, ARRAY_PREFIXES[kind] + quantity)
        name2id = getattr(self.model, f"{kind}_name2id")
        return lambda key: array[name2id(key)]


class MjSim:
    """A model and its data; `step` advances `nsubsteps` steps of the engine."""

    def __init__(self, model: Model, nsubsteps: int = 1) -> None:
        self.model, self.data, self.nsubsteps = model, Data(model), nsubsteps
        self.forward()

    def step(self) -> None:
        for _ in range(self.nsubsteps):
            mujoco.mj_step(self.model.compiled, self.data.raw)
        self._raise_warnings()

    def forward(self) -> None:
        raw = self.data.raw  # the engine itself checks positions and velocities only in a step
        if not (np.isfinite(raw.qpos).all() and np.isfinite(raw.qvel).all()):
            raise MujocoException("qpos or qvel is not finite; set finite values")
        mujoco.mj_forward(self.model.compiled, raw)
        self._raise_warnings()

    def _raise_warnings(self) -> None:
        """Raise on every warning of the engine, as mujoco_py does."""
        counts = self.data.raw.warning.number
        if counts.any():
            kinds = [mujoco.mjtWarning(kind).name for kind in counts.nonzero()[0]]
            counts[:] = 0
            problem = f"Got MuJoCo Warning: {', '.join(kinds)}"
            raise MujocoException(f"{problem}: a value is huge or not finite, or a buffer is full")

    def reset(self) -> None:
        mujoco.mj_resetData(self.model.compiled, self.data.raw)

    def get_state(self) -> MjSimState:
        raw = self.data.raw
        act = raw.act.copy() if raw.act.size else None
        return MjSimState(raw.time, raw.qpos.copy(), raw.qvel.copy(), act, {})

    def set_state(self, state: MjSimState) -> None:
        raw = self.data.raw
        raw.time, raw.qpos[:], raw.qvel[:] = state.time, state.qpos, state.qvel
        if state.act is not None:
            raw.act[:] = state.act


class MjRenderContextOffscreen:
    """Pictures without a window; a machine without a screen needs `MUJOCO_GL=egl` or `osmesa`."""

    def __init__(self, sim: MjSim, device_id: int = -1) -> None:
        self.sim, self.cam, self._renderer = sim, mujoco.MjvCamera(), None
        mujoco.mjv_defaultFreeCamera(sim.model.compiled, self.cam)

    def render(self, width: int, height: int, camera_id: int | None = None) -> None:
        model, renderer = self.sim.model.compiled, self._renderer
        if renderer is None or (renderer.width, renderer.height) != (width, height):
            model.vis.global_.offwidth = max(width, model.vis.global_.offwidth)
            model.vis.global_.offheight = max(height, model.vis.global_.offheight)
            self._renderer = mujoco.Renderer(model, height, width)
        camera = self.cam if camera_id is None else camera_id
        self._renderer.update_scene(self.sim.data.raw, camera)

    def read_pixels(self, width: int, height: int, depth: bool = False) -> Picture:
        """Return the picture that `render` drew, its rows from bottom to top as in mujoco_py."""
        colours = self._renderer.render()[::-1]
        if not depth:
            return colours
        self._renderer.enable_depth_rendering()
        distances = self._renderer.render()[::-1]
        self._renderer.disable_depth_rendering()
        return colours, distances


class MjViewer:
    """mujoco's own window."""

    def __init__(self, sim: MjSim) -> None:
        from mujoco import viewer

        self._window = viewer.launch_passive(sim.model.compiled, sim.data.raw)
        self.cam = self._window.cam

    def render(self) -> None:
        self._window.sync()


def load_model_from_path(path: str) -> Model:
    """Compile a model file.

    gym's hopper and walker2d use global coordinates, which MuJoCo no longer reads. gymnasium's
    copies of both models use local coordinates and replace them.
    """
    compiler = xml.parse(path).getroot().find("compiler")
    if compiler is not None and compiler.get("coordinate") == "global":
        gymnasium = Path(find_spec("gymnasium").submodule_search_locations[0])
        translated = gymnasium / "envs/mujoco/assets" / Path(path).name
        path = translated if translated.exists() else path
    with quiet():  # MuJoCo warns of outdated attributes in D4RL's models; errors are raised
        return Model(mujoco.MjModel.from_xml_path(str(path)))


def get_version() -> str:
    """Return the version of the engine."""
    return mujoco.__version__
