"""Training steps stay on their device and read no value between two records, tested without a GPU.

The CPU emulates a second device under the name "meta". A watch counts operations that would make a
GPU wait or that run on the wrong device. Fakes replace CUDA graphs.
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
from cepnb.diffusion.devices import WARM_UP, captured
from cepnb.diffusion.guidance import energy_gradient, guided
from cepnb.diffusion.samplers import ancestral, last
from cepnb.diffusion.schedule import VPSchedule
from cepnb.diffusion.training import Plan, StepLoss, seeded, training
from cepnb.envs.maze import LAYOUTS
from cepnb.errors import CepnbError
from cepnb.qgpo import pipeline
from cepnb.qgpo import support as support_set
from cepnb.qgpo.behaviour import behaviour_loss, behaviour_net
from cepnb.qgpo.critic import critic_loss, critic_net, polyak_update, support_values
from cepnb.qgpo.energy import TRAINED_ENERGIES, energy_loss, energy_net
from cepnb.qgpo.pipeline import Steps, run_qgpo
from cepnb.qgpo.policy import sample_actions
from cepnb.qgpo.record import open_run
from cepnb.qgpo.settings import qgpo_settings
from cepnb.qgpo.transitions import Transitions
from cepnb.storage.runs import Run
from cepnb.storage.tensors import load_tensors

SCHEDULE = VPSchedule()
CHOSEN = qgpo_settings("ci", energy_states=0, K=8, energy_K=8, labels="self_normalised")
# Operations whose result, or the shape of it, the host must wait for.
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
    """Count operations by kind and name.

    The kinds: "read" (the host waits for the result), "mixed" (tensors of several devices) and
    "host" (tensors of other devices only).
    """

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
        )  # a mask as an index calls `nonzero`
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
    """The step loss, the modules and the `after_step` of each kind of step."""
    data, support, values = transitions(device)
    eps = behaviour_net(5, 2, CHOSEN, 0).to(device)
    q = critic_net(5, 2, CHOSEN, 0).to(device)
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
    next(steps)  # builds the optimiser
    with Watch(torch.device("cpu")) as watch:
        next(steps)
    assert watch.operations > 5 * 50 and watch.found("read", "mixed", "host") == {
        ("read", "_local_scalar_dense"): 1
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_stays_on_its_device(kind: str) -> None:
    """All of a step but Adam, which torch lacks on this device."""
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
            critic_net(5, 2, CHOSEN, 0),
        )
    )
    with Watch(PLACE) as watch:
        actions = sample_actions(eps, data.distinct, 2, CHOSEN, Streams(PLACE), 8)
        values = support_values(q, data.distinct, actions)
        steered = sample_actions(
            guided(eps, energy_gradient(f), SCHEDULE, 3.0), data.distinct, 2, CHOSEN, Streams(PLACE)
        )
    # The solver's times and coefficients are host numbers, but none is copied to the device.
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
    calls: list[str] = []

    class Graph:
        def register_generator_state(self, generator: torch.Generator) -> None:
            calls.append("generator")

        def replay(self) -> None:
            calls.append("replay")

    class Stream:
        def __init__(self, device: torch.device) -> None:
            self.device = device

        def wait_stream(self, other: "Stream") -> None:
            calls.append("wait")

    @contextmanager
    def on_stream(stream: Stream) -> Iterator[None]:
        calls.append("stream")
        yield

    @contextmanager
    def recording(graph: Graph, stream: Stream) -> Iterator[None]:
        calls.append("record")
        yield

    for name, fake in (
        ("CUDAGraph", Graph),
        ("Stream", Stream),
        ("current_stream", Stream),
        ("stream", on_stream),
        ("graph", recording),
    ):
        monkeypatch.setattr(torch.cuda, name, fake)
    step = captured(lambda: calls.append("step"), torch.device("cuda"), seeded(0, "a"))
    for _ in range(WARM_UP + 2):
        step()
    warm_up = ["wait", "stream", "step", "wait"] * WARM_UP
    assert calls == ["generator", *warm_up, "record", "step", "replay", "replay"]


def test_steps_are_not_captured_on_the_cpu() -> None:
    def step() -> None:
        pass

    assert captured(step, torch.device("cpu"), seeded(0, "a")) is step


def test_adam_uses_the_rate_of_the_plan() -> None:
    """Under a constant gradient Adam moves a weight by the learning rate at every step."""
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
    expected = [plan.rate(step) for step in range(6)]
    assert moved == pytest.approx(expected, rel=1e-3)  # differences of float32 weights near 1


@pytest.fixture
def second_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Emulate its generators and its Adam (in basic operations), with chunks as on the CPU."""
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
        labels="self_normalised",
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
    monkeypatch.setattr(
        pipeline, "device_of", torch.device
    )  # it refuses other names than cpu, cuda
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


def test_the_emulated_device_refuses_mixed_tensors() -> None:
    with Played(), pytest.raises(RuntimeError, match="addmm: tensors of two devices"):
        nn.Linear(2, 2).to(PLACE)(torch.ones(3, 2))


def test_a_run_is_of_one_device(tmp_path: Path) -> None:
    open_run(tmp_path / "gpu", {"settings": {}, "device": "cuda"})
    open_run(tmp_path / "cpu", {"settings": {}})
    with pytest.raises(CepnbError, match="made with device cuda, now cpu; use another folder"):
        open_run(tmp_path / "gpu", {"settings": {}})
    with pytest.raises(CepnbError, match="made with device cpu, now cuda; use another folder"):
        open_run(tmp_path / "cpu", {"settings": {}, "device": "cuda"})
