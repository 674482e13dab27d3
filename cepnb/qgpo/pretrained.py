"""The networks of one run as they come with the package, so that its policies can be seen without training them.

    python -m cepnb qgpo --dataset local/hopper-medium-replay --profile laptop --seed 0 --out RUN
    python -m cepnb.qgpo.pretrained RUN cepnb/policies/hopper-medium-replay.safetensors

made what is there.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from cepnb.datasets.registry import load_task
from cepnb.diffusion.networks import EnergyNet, EpsNet
from cepnb.diffusion.schedule import VPSchedule
from cepnb.errors import CepnbError, exit_status, in_a_line
from cepnb.qgpo.behaviour import behaviour_net
from cepnb.qgpo.energy import energy_net
from cepnb.qgpo.pipeline import configuration_of
from cepnb.qgpo.record import completed_configuration
from cepnb.qgpo.settings import Settings, completed
from cepnb.qgpo.transitions import Scaling, prepare
from cepnb.storage.files import load_module, load_tensors, read_json, save_tensors, under
from cepnb.storage.runs import refuse_changes

FOLDER = Path(__file__).parents[1] / "assets/policies"


@dataclass(frozen=True)
class Learned:
    """ε_θ and f_φ (of CEP) of a run, the scaling of the states that they see, and the settings that made them."""

    eps: EpsNet
    energy: EnergyNet
    scaling: Scaling
    settings: Settings


def shipped_networks(name: str) -> Learned:
    """The networks of a local dataset's name, of training seed 0; raises `CepnbError` on one that has none."""
    known = sorted(path.stem for path in FOLDER.glob("*.safetensors"))
    if name not in known:
        raise CepnbError(f"networks of '{name}': expected one of {', '.join(known)}")
    return read_learned(FOLDER / f"{name}.safetensors")


def read_learned(path: Path) -> Learned:
    """What `keep` wrote; raises `CepnbError` on another file."""
    tensors, metadata = load_tensors(path)
    try:
        run, scaling = (
            json.loads(metadata["run"]),
            Scaling(tensors["scaling.mean"], tensors["scaling.deviation"]),
        )
        sizes = (
            len(scaling.mean),
            len(tensors["behaviour.out.bias"]),
            _settings(run),
            VPSchedule(),
            run["seed"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CepnbError(f"{path}: expected the networks of a run ({in_a_line(error)})") from error
    nets = {"behaviour": behaviour_net(*sizes), "energy_cep": energy_net(*sizes)}
    for step, net in nets.items():
        load_module(net, under(tensors, f"{step}."), path)
        net.requires_grad_(False)
    return Learned(nets["behaviour"], nets["energy_cep"], scaling, sizes[2])


def keep(run: Path, path: Path) -> None:
    """Write the networks of a finished run, and the scaling of its data, as one file.

    Raises `CepnbError` if the folder has not got them, or if its data is not what its name gives now.
    """
    stored = read_json(run / "settings.json")
    settings = _settings(stored)
    dataset = load_task(
        stored["dataset"], stored["environment"], settings.transitions, settings.data_seed
    )
    refuse_changes(
        run / "settings.json",
        configuration_of(
            dataset,
            stored["environment"],
            settings,
            stored["profile"],
            stored["seed"],
            stored.get("device", "cpu"),
        ),
        completed_configuration,
    )
    scaling = prepare(dataset, settings.reward_tuning)[1]
    tensors = {"scaling.mean": scaling.mean, "scaling.deviation": scaling.deviation}
    for step in ("behaviour", "energy_cep"):
        tensors |= {
            f"{step}.{name}": tensor
            for name, tensor in load_tensors(run / f"{step}.safetensors")[0].items()
        }
    save_tensors(path, tensors, {"run": json.dumps(stored)})


def _settings(run: dict) -> Settings:
    return Settings(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in completed(run["settings"]).items()
        }
    )


def main(arguments: list[str] | None = None) -> int:
    """Keep the networks of a run; 0 if they are there, 2 on an error."""
    parser = argparse.ArgumentParser(
        prog="cepnb.qgpo.pretrained", description="Keep the networks of a finished run as one file."
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument("path", type=Path, metavar="FILE", help="file to write")
    options = parser.parse_args(arguments)
    return exit_status("cepnb.qgpo.pretrained", lambda: keep(options.run, options.path))


if __name__ == "__main__":
    sys.exit(main())
