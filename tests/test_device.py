"""Steps stay on the device that they are given, and read nothing of it between two records; no GPU is needed to see that.

On the device "meta", which has shapes and no numbers, whatever would ask for a number fails, and a watch counts what would
make a GPU wait, or work elsewhere. What a CUDA graph does is played by stand-ins.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cepnb.capture import WARM_UP, captured
from cepnb.guidance import energy_gradient, guided
from cepnb.offline import seeds
from cepnb.offline.behaviour import behaviour_loss, behaviour_net
from cepnb.offline.critic import critic_loss, critic_net, following, support_values
from cepnb.offline.energy import METHODS, batch_loss, energy_net
from cepnb.offline.policy import sample_actions
from cepnb.offline.scaling import Transitions
from cepnb.profiles import settings
from cepnb.samplers import ancestral, last
from cepnb.schedule import VPSchedule
from cepnb.training import Plan, StepLoss, seeded, training

SCHEDULE = VPSchedule()
CHOSEN = settings("ci", energy_states=0, K=8, energy_K=8, labels="state_value")
META = torch.device("meta")
# Operations whose result, or its shape, is a number that the host must have before it goes on.
READS = {"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_dim", "repeat_interleave"}


class Draws(torch.Generator):
    """A generator of the device without numbers, which torch itself does not have."""

    device = META


class Watch(TorchDispatchMode):
    """Counts by name: "read" operations whose result the host must have, "mixed" ones of tensors on several devices, "host" ones
    of tensors elsewhere."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.counts, self.operations = device, Counter(), 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function._overloadpacket.__name__
        places = {x.device.type for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)}
        masked = name in ("index", "index_put_") and any(x is not None and x.dtype is torch.bool for x in args[1])  # a hidden `nonzero`
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
    data = Transitions(states=distinct[:n], actions=torch.rand(n, 2, generator=g), rewards=torch.randn(n, generator=g),
                       terminals=torch.rand(n, generator=g) < 0.1, next_row=torch.arange(1, n + 1), distinct=distinct)
    support, q = torch.rand(n + 1, CHOSEN.K, 2, generator=g), torch.randn(n + 1, CHOSEN.K, generator=g)
    return data.to(torch.device(device)), support.to(device), q.to(device)


def tasks(device: torch.device | str) -> dict[str, tuple[StepLoss, dict[str, nn.Module], Callable[[], None] | None]]:
    """The step loss, the modules and what comes after a step, for each kind of step."""
    data, support, values = transitions(device)
    eps = behaviour_net(5, 2, CHOSEN, SCHEDULE, 0).to(device)
    q = critic_net(data, CHOSEN, 0).to(device)
    target = deepcopy(q).requires_grad_(False)
    made = {"behaviour": (behaviour_loss(eps, data.states, data.actions, CHOSEN, SCHEDULE), {"net": eps}, None),
            "critic": (critic_loss(q, target, data, support, CHOSEN), {"q": q, "target": target}, following(q, target, 0.01))}
    for method in METHODS:
        f = energy_net(5, 2, CHOSEN, SCHEDULE, 0).to(device)
        made[method] = batch_loss(method, f, data.distinct, support, values, CHOSEN, SCHEDULE), {"net": f}, None
    return made


KINDS = ("behaviour", "critic", *METHODS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_reads_one_number_and_the_steps_none(kind: str) -> None:
    loss, modules, after = tasks("cpu")[kind]
    plan = Plan(20, 1e-3, 0.1, record_every=5, checkpoint_every=5)
    steps = training(loss, modules, plan, seeded(0, "watch"), after_step=after, progress=False)
    next(steps)  # the optimiser is made and its rate is checked
    with Watch(torch.device("cpu")) as watch:
        next(steps)
    assert watch.operations > 5 * 50 and watch.found("read", "mixed", "host") == {("read", "_local_scalar_dense"): 1}


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_stays_on_its_device(kind: str) -> None:
    """All but Adam, which torch does not have on this device."""
    loss, modules, after = tasks(META)[kind]
    with Watch(META) as watch:
        loss(Draws()).mean().backward()
        if after is not None:
            after()
    assert watch.operations > 50 and not watch.found("read", "mixed", "host")
    for module in modules.values():
        assert all(p.grad.device == META for p in module.parameters() if p.requires_grad)


def test_a_step_of_several_seeds_stays_on_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "seeded", lambda seed, purpose, device: Draws())
    data, support, q = transitions(META)
    for fit in (seeds.behaviour_fit(data.states, data.actions, CHOSEN, SCHEDULE, range(3)),
                seeds.critic_fit(data, [support] * 3, CHOSEN, range(3)),
                seeds.energy_fit("cep", data.distinct, [support] * 3, [q] * 3, CHOSEN, SCHEDULE, range(3))):
        with Watch(META) as watch:
            fit.loss(fit.streams).mean().backward()
            if fit.after_step is not None:
                fit.after_step()
        assert watch.operations > 50 and not watch.found("read", "mixed", "host")


def test_sampling_stays_on_its_device() -> None:
    data, support, _ = transitions(META)
    eps, f, q = (net.to(META) for net in (behaviour_net(5, 2, CHOSEN, SCHEDULE, 0), energy_net(5, 2, CHOSEN, SCHEDULE, 0),
                                         critic_net(data, CHOSEN, 0)))
    with Watch(META) as watch:
        actions = sample_actions(eps, data.distinct, 2, CHOSEN, SCHEDULE, Draws(), 8)
        values = support_values(q, data.distinct, actions)
        steered = sample_actions(guided(eps, energy_gradient(f), SCHEDULE, 3.0), data.distinct, 2, CHOSEN, SCHEDULE, Draws())
    # The solver's own times and coefficients are numbers of the host, but none is copied to the device.
    assert watch.operations > 500 and not watch.found("read", "mixed")
    assert actions.device == values.device == steered.device == META and actions.shape == support.shape
    trajectory = ancestral(eps, torch.randn(4, 2, device=META), SCHEDULE.times(3), SCHEDULE, data.states[:4], Draws())
    assert last(trajectory).device == META


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

    for name, stand_in in (("CUDAGraph", Graph), ("Stream", Stream), ("current_stream", Stream), ("stream", beside), ("graph", recording)):
        monkeypatch.setattr(torch.cuda, name, stand_in)
    step = captured(lambda: said.append("step"), torch.device("cuda"), [seeded(0, "a"), seeded(1, "a")])
    for _ in range(WARM_UP + 2):
        step()
    assert said == ["generator"] * 2 + ["wait", "beside", "step", "wait"] * WARM_UP + ["record", "step", "replay", "replay"]


def test_elsewhere_a_step_is_called_as_it_is() -> None:
    def step() -> None:
        pass

    assert captured(step, torch.device("cpu"), []) is step


def test_a_rate_that_is_filled_is_the_rate_that_is_used() -> None:
    """Gradients of one sign and size: Adam then moves a weight by its rate at every step, whatever the gradient."""
    weight = nn.Linear(1, 1, bias=False)
    plan, places = Plan(6, 1e-2, 0.1, record_every=1, checkpoint_every=1), [weight.weight.item()]
    for _ in training(lambda generator: weight.weight.flatten(), {"weight": weight}, plan, seeded(0, "rate"), progress=False):
        places.append(weight.weight.item())
    moved = [before - after for before, after in zip(places, places[1:])]
    assert moved == pytest.approx([plan.rate(step) for step in range(6)], rel=1e-3)  # of weights near 1 in float32
