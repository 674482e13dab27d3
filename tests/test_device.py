"""Steps stay on the device that they are given, and read nothing of it between two records; no GPU is needed to see that.

On the device "meta", which has shapes and no numbers, whatever would ask for a number fails, and a watch counts what would
make a GPU wait, or work elsewhere. What a CUDA graph does is played by stand-ins; and the processor plays a second device that
has numbers, on which the five steps are run.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from elsewhere import PLACE, Elsewhere, Played, Streams
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cepnb.datasets.registry import load_dataset
from cepnb.diffusion.capture import WARM_UP, captured
from cepnb.diffusion.guidance import energy_gradient, guided
from cepnb.diffusion.samplers import ancestral, last
from cepnb.diffusion.schedule import VPSchedule
from cepnb.diffusion.training import Plan, StepLoss, seeded, training
from cepnb.envs.maze import LAYOUTS
from cepnb.errors import CepnbError
from cepnb.qgpo import support as support_set
from cepnb.qgpo.behaviour import behaviour_loss, behaviour_net
from cepnb.qgpo.critic import critic_loss, critic_net, polyak_update, support_values
from cepnb.qgpo.energy import TRAINED_ENERGIES, energy_loss, energy_net
from cepnb.qgpo.pipeline import Steps, run_qgpo
from cepnb.qgpo.policy import sample_actions
from cepnb.qgpo.record import open_run
from cepnb.qgpo.settings import qgpo_settings
from cepnb.qgpo.transitions import Transitions
from cepnb.storage.files import load_tensors
from cepnb.storage.runs import Run

SCHEDULE = VPSchedule()
CHOSEN = qgpo_settings("ci", energy_states=0, K=8, energy_K=8, labels="state_value")
# Operations whose result, or its shape, is a number that the host must have before it goes on.
READS = {
    "_local_scalar_dense",
    "item",
    "is_nonzero",
    "equal",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "repeat_interleave",
}


class Watch(TorchDispatchMode):
    """Counts by name: "read" operations whose result the host must have, "mixed" ones of tensors on several devices, "host" ones
    of tensors elsewhere."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.counts, self.operations = device, Counter(), 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function._overloadpacket.__name__
        places = {
            x.device.type for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)
        }
        masked = name in ("index", "index_put_") and any(
            x is not None and x.dtype is torch.bool for x in args[1]
        )  # a hidden `nonzero`
        self.operations += 1
        self.counts["read", name] += places == {self.device.type} and (name in READS or masked)
        self.counts["mixed", name] += len(places) > 1
        self.counts["host", name] += bool(places) and self.device.type not in places
        return result

    def found(self, *kinds: str) -> dict[tuple[str, str], int]:
        return {key: count for key, count in self.counts.items() if count and key[0] in kinds}


def transitions(device: torch.device | str, n: int = 300) -> tuple[Transitions, Tensor, Tensor]:
    """Random data, support actions and their Q."""
    g = seeded(0, "device")
    distinct = torch.randn(n + 1, 5, generator=g)
    data = Transitions(
        states=distinct[:n],
        actions=torch.rand(n, 2, generator=g),
        rewards=torch.randn(n, generator=g),
        terminals=torch.rand(n, generator=g) < 0.1,
        next_row=torch.arange(1, n + 1),
        distinct=distinct,
    )
    support, q = (
        torch.rand(n + 1, CHOSEN.K, 2, generator=g),
        torch.randn(n + 1, CHOSEN.K, generator=g),
    )
    return data.to(torch.device(device)), support.to(device), q.to(device)


def tasks(
    device: torch.device | str,
) -> dict[str, tuple[StepLoss, dict[str, nn.Module], Callable[[], None] | None]]:
    """The step loss, the modules and what comes after a step, for each kind of step."""
    data, support, values = transitions(device)
    eps = behaviour_net(5, 2, CHOSEN, 0).to(device)
    q = critic_net(data, CHOSEN, 0).to(device)
    target = deepcopy(q).requires_grad_(False)
    made = {
        "behaviour": (behaviour_loss(eps, data.states, data.actions, CHOSEN), {"net": eps}, None),
        "critic": (
            critic_loss(q, target, data, support, CHOSEN),
            {"q": q, "target": target},
            lambda: polyak_update(q, target, 0.01),
        ),
    }
    for method in TRAINED_ENERGIES:
        f = energy_net(5, 2, CHOSEN, 0).to(device)
        made[method] = (
            energy_loss(method, f, data.distinct, support, values, CHOSEN),
            {"net": f},
            None,
        )
    return made


KINDS = ("behaviour", "critic", *TRAINED_ENERGIES)


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_reads_one_number_and_the_steps_none(kind: str) -> None:
    loss, modules, after = tasks("cpu")[kind]
    plan = Plan(20, 1e-3, 0.1, record_every=5, checkpoint_every=5)
    steps = training(loss, modules, plan, seeded(0, "watch"), after_step=after, progress=False)
    next(steps)  # the optimiser is made and its rate is checked
    with Watch(torch.device("cpu")) as watch:
        next(steps)
    assert watch.operations > 5 * 50 and watch.found("read", "mixed", "host") == {
        ("read", "_local_scalar_dense"): 1
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_stays_on_its_device(kind: str) -> None:
    """All but Adam, which torch does not have on this device."""
    loss, modules, after = tasks(PLACE)[kind]
    with Watch(PLACE) as watch:
        loss(Streams(PLACE)).mean().backward()
        if after is not None:
            after()
    assert watch.operations > 50 and not watch.found("read", "mixed", "host")
    for module in modules.values():
        assert all(p.grad.device == PLACE for p in module.parameters() if p.requires_grad)


def test_sampling_stays_on_its_device() -> None:
    data, support, _ = transitions(PLACE)
    eps, f, q = (
        net.to(PLACE)
        for net in (
            behaviour_net(5, 2, CHOSEN, 0),
            energy_net(5, 2, CHOSEN, 0),
            critic_net(data, CHOSEN, 0),
        )
    )
    with Watch(PLACE) as watch:
        actions = sample_actions(eps, data.distinct, 2, CHOSEN, Streams(PLACE), 8)
        values = support_values(q, data.distinct, actions)
        steered = sample_actions(
            guided(eps, energy_gradient(f), SCHEDULE, 3.0), data.distinct, 2, CHOSEN, Streams(PLACE)
        )
    # The solver's own times and coefficients are numbers of the host, but none is copied to the device.
    assert watch.operations > 500 and not watch.found("read", "mixed")
    assert (
        actions.device == values.device == steered.device == PLACE
        and actions.shape == support.shape
    )
    trajectory = ancestral(
        eps,
        torch.randn(4, 2, device=PLACE),
        SCHEDULE.times(3),
        SCHEDULE,
        data.states[:4],
        Streams(PLACE),
    )
    assert last(trajectory).device == PLACE


def test_steps_are_replayed_on_cuda_and_each_call_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Graph:
        def register_generator_state(self, generator: torch.Generator) -> None:
            said.append("generator")

        def replay(self) -> None:
            said.append("replay")

    class Stream:
        def __init__(self, device: torch.device) -> None:
            self.device = device

        def wait_stream(self, other: "Stream") -> None:
            said.append("wait")

    @contextmanager
    def beside(stream: Stream) -> Iterator[None]:
        said.append("beside")
        yield

    @contextmanager
    def recording(graph: Graph, stream: Stream) -> Iterator[None]:
        said.append("record")
        yield

    for name, stand_in in (
        ("CUDAGraph", Graph),
        ("Stream", Stream),
        ("current_stream", Stream),
        ("stream", beside),
        ("graph", recording),
    ):
        monkeypatch.setattr(torch.cuda, name, stand_in)
    step = captured(
        lambda: said.append("step"), torch.device("cuda"), [seeded(0, "a"), seeded(1, "a")]
    )
    for _ in range(WARM_UP + 2):
        step()
    assert said == ["generator"] * 2 + ["wait", "beside", "step", "wait"] * WARM_UP + [
        "record",
        "step",
        "replay",
        "replay",
    ]


def test_elsewhere_a_step_is_called_as_it_is() -> None:
    def step() -> None:
        pass

    assert captured(step, torch.device("cpu"), []) is step


def test_a_rate_that_is_filled_is_the_rate_that_is_used() -> None:
    """Gradients of one sign and size: Adam then moves a weight by its rate at every step, whatever the gradient."""
    weight = nn.Linear(1, 1, bias=False)
    plan, places = Plan(6, 1e-2, 0.1, record_every=1, checkpoint_every=1), [weight.weight.item()]
    for _ in training(
        lambda generator: weight.weight.flatten(),
        {"weight": weight},
        plan,
        seeded(0, "rate"),
        progress=False,
    ):
        places.append(weight.weight.item())
    moved = [before - after for before, after in zip(places, places[1:])]
    assert moved == pytest.approx(
        [plan.rate(step) for step in range(6)], rel=1e-3
    )  # of weights near 1 in float32


@pytest.fixture
def second_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generators of it, an Adam that any device has, in plain operations, and support sets in as many pieces as here."""
    adam = torch.optim.Adam
    monkeypatch.setattr(support_set, "GPU_CHUNK", support_set.CHUNK)
    monkeypatch.setattr(torch, "Generator", Streams)
    monkeypatch.setattr(
        torch.optim,
        "Adam",
        lambda parameters, **_: adam(
            parameters, lr=torch.zeros((), dtype=torch.float64), foreach=False
        ),
    )


@pytest.mark.parametrize("training", ["staged", "joint"])
def test_the_five_steps_run_on_another_device_to_the_same_numbers(
    second_device: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, training: str
) -> None:
    chosen = qgpo_settings(
        "ci",
        training=training,
        behaviour_steps=5,
        q_steps=5,
        energy_steps=5,
        checkpoint_every=100,
        labels="state_value",
        sampler_steps=2,
        energy_states=50,
        episodes=2,
        best_of=2,
        scales=(1.0,),
        headline_scale=1.0,
        guidance=("cep", "mse", "dps"),
    )
    dataset = load_dataset("local/maze2d-umaze", chosen.transitions, chosen.data_seed)
    monkeypatch.setitem(LAYOUTS, "umaze", replace(LAYOUTS["umaze"], max_steps=10))
    here, there = tmp_path / "here", tmp_path / "there"
    expected = run_qgpo(dataset, "maze2d-umaze", chosen, "ci", 0, here, progress=False)
    with Played() as played:
        found = run_qgpo(
            dataset, "maze2d-umaze", chosen, "ci", 0, there, progress=False, device=PLACE
        )
        loaded = Steps(dataset, chosen, 0, Run(there), progress=False, device=PLACE)
        kept = [
            loaded.data.states,
            loaded.support,
            loaded.contrast_actions,
            loaded.values,
            next(loaded.eps.parameters()),
        ]
    assert played.there > 2_000 and all(isinstance(x, Elsewhere) for x in kept)
    assert [found[key] for key in ("q_mean", "gains", "scores")] == [
        expected[key] for key in ("q_mean", "gains", "scores")
    ]
    assert found["device"] == PLACE.type and "device" not in expected
    suffixes = ".safetensors", ".npy"
    files, there_files = (
        sorted(path.name for path in folder.iterdir() if path.suffix in suffixes)
        for folder in (here, there)
    )
    assert len(files) == (5 if training == "joint" else 7) and files == there_files
    for name in files:
        if name.endswith(".npy"):
            assert (here / name).read_bytes() == (there / name).read_bytes()
            continue
        ours, theirs = (load_tensors(folder / name)[0] for folder in (here, there))
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_other_device_refuses_what_a_gpu_would() -> None:
    with Played(), pytest.raises(RuntimeError, match="addmm: tensors of two devices"):
        nn.Linear(2, 2).to(PLACE)(torch.ones(3, 2))


def test_a_run_is_of_one_device(tmp_path: Path) -> None:
    open_run(tmp_path / "gpu", {"settings": {}, "device": "cuda"})
    open_run(tmp_path / "cpu", {"settings": {}})
    with pytest.raises(CepnbError, match="made with device cuda, now cpu; use another folder"):
        open_run(tmp_path / "gpu", {"settings": {}})
    with pytest.raises(CepnbError, match="made with device cpu, now cuda; use another folder"):
        open_run(tmp_path / "cpu", {"settings": {}, "device": "cuda"})
