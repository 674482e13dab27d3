"""The training loop: it learns, resumes bit for bit, and refuses checkpoints that do not match."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from cepnb.diffusion.training import Plan, draw, initialised, seeded, train, training
from cepnb.errors import CepnbError
from cepnb.storage.tensors import load_tensors

PLAN = Plan(steps=60, learning_rate=1e-2, final_fraction=0.1, record_every=5, checkpoint_every=10)


def regression(seed: int = 0, width: int = 8):
    net = initialised(
        seed,
        "test",
        lambda: torch.nn.Sequential(
            torch.nn.Linear(1, width), torch.nn.Tanh(), torch.nn.Linear(width, 1)
        ),
    )
    x = torch.linspace(-1, 1, 100).unsqueeze(1)

    def step_loss(generator: torch.Generator) -> torch.Tensor:
        (batch,) = draw(generator, 32, x)
        return (net(batch) - batch.sin()).square().squeeze(1)

    return net, step_loss


def test_the_loss_falls() -> None:
    net, loss = regression()
    history = train(loss, {"net": net}, Plan(400, 1e-2, 0.01), seeded(0, "a"), progress=False)
    assert [record.step for record in history] == [100, 200, 300, 400]
    assert history[-1].loss < 1e-2 < history[0].loss


@pytest.mark.parametrize("stop_after", [5, 10, 37])
def test_a_resumed_run_equals_an_unbroken_run_bit_for_bit(tmp_path: Path, stop_after: int) -> None:
    whole, loss = regression()
    expected = train(loss, {"net": whole}, PLAN, seeded(0, "a"), progress=False)

    broken, loss = regression()
    for record in training(
        loss, {"net": broken}, PLAN, seeded(0, "a"), checkpoint=tmp_path / "c", progress=False
    ):
        if record.step >= stop_after:
            break
    if (tmp_path / "c").exists():  # weights and random state must come from the checkpoint
        (again, loss), generator = regression(seed=1), seeded(9, "b")
    else:
        (again, loss), generator = regression(), seeded(0, "a")
    history = train(
        loss, {"net": again}, PLAN, generator, checkpoint=tmp_path / "c", progress=False
    )
    assert history == expected
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    net, loss = regression()
    first = train(
        loss, {"net": net}, PLAN, seeded(0, "a"), checkpoint=tmp_path / "c", progress=False
    )

    def never(generator: torch.Generator) -> torch.Tensor:
        raise AssertionError("trained again")

    other, _ = regression(seed=1)
    again = train(
        never, {"net": other}, PLAN, seeded(0, "a"), checkpoint=tmp_path / "c", progress=False
    )
    assert again == first
    assert torch.equal(other[0].weight, net[0].weight)


def test_initial_weights_depend_on_seed_and_purpose_only() -> None:
    before = torch.get_rng_state()
    a, b, c = (
        initialised(seed, name, lambda: torch.nn.Linear(3, 3)).weight
        for seed, name in ((0, "x"), (0, "x"), (0, "y"))
    )
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), before)


def test_bad_checkpoints_and_plans_are_refused(tmp_path: Path) -> None:
    net, loss = regression()
    path = tmp_path / "c"
    train(loss, {"net": net}, PLAN, seeded(0, "a"), checkpoint=path, progress=False)
    wide, wide_loss = regression(width=9)
    with pytest.raises(
        CepnbError, match=r"tensor '0.weight' has shape \(8, 1\); use weights of shape \(9, 1\)"
    ):
        train(wide_loss, {"net": wide}, PLAN, seeded(0, "a"), checkpoint=path, progress=False)
    with pytest.raises(CepnbError, match="use another folder"):
        train(loss, {"net": net}, Plan(61, 1e-2), seeded(0, "a"), checkpoint=path, progress=False)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CepnbError, match="not a complete safetensors file"):
        train(loss, {"net": net}, PLAN, seeded(0, "a"), checkpoint=path, progress=False)
    with pytest.raises(CepnbError, match="loss is nan after step 5; lower the learning rate"):
        train(
            lambda g: net[0].weight.sum() * float("nan"),
            {"net": net},
            PLAN,
            seeded(0, "a"),
            progress=False,
        )
    with pytest.raises(
        CepnbError, match="^checkpoint_every 1000: use a multiple of record_every, 7$"
    ):
        Plan(10, 1e-3, record_every=7)
    with pytest.raises(
        CepnbError, match="^checkpoint_every 0: use a multiple of record_every, 100$"
    ):
        Plan(10, 1e-3, checkpoint_every=0)
    for name in ("steps", "record_every"):
        with pytest.raises(CepnbError, match=f"^{name} 0: use at least 1$"):
            Plan(**{"steps": 10, "learning_rate": 1e-3} | {name: 0})


def test_weights_that_the_last_step_makes_infinite_are_not_saved(tmp_path: Path) -> None:
    """The loss of a step is finite while its update is not."""
    net, loss = regression()

    def spoil() -> None:
        if next(steps) == PLAN.steps:
            net[0].bias.data[0] = float("inf")

    steps = iter(range(1, PLAN.steps + 1))
    generator, path = seeded(0, "a"), tmp_path / "c"
    with pytest.raises(
        CepnbError, match="weights are not finite after step 60; lower the learning"
    ):
        train(
            loss, {"net": net}, PLAN, generator, after_step=spoil, checkpoint=path, progress=False
        )
    assert "history" in load_tensors(path)[1]  # of step 50


def test_learning_rates_are_numbers() -> None:
    for rate in (-1.0, float("nan"), float("inf")):
        with pytest.raises(CepnbError, match="learning_rate .*: use a finite number, 0 or more"):
            Plan(10, rate)


def test_training_leaves_global_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first optimiser of a process imports libraries that change global state."""
    adam = torch.optim.Adam

    def first_adam(*arguments: object, **options: object) -> torch.optim.Adam:
        os.environ["CEPNB_TEST_ADDED"] = os.environ["CEPNB_TEST_KEPT"] = "1"
        del os.environ["CEPNB_TEST_LOST"]
        warnings.filterwarnings("once", category=ResourceWarning)
        return adam(*arguments, **options)

    monkeypatch.setattr(torch.optim, "Adam", first_adam)
    monkeypatch.setenv("CEPNB_TEST_KEPT", "0")
    monkeypatch.setenv("CEPNB_TEST_LOST", "0")
    environment, filters = dict(os.environ), list(warnings.filters)
    net, loss = regression()
    train(loss, {"net": net}, Plan(1, 1e-2), seeded(0, "a"), progress=False)
    assert dict(os.environ) == environment and warnings.filters == filters


def test_initial_weights_leave_the_random_state_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    regression()
    assert seeds == []


def test_seeds_that_are_no_integers_are_refused(as_users_call_it: None) -> None:
    """Text, truth values and floats would select other random streams in silence."""
    for seed in (True, 1.0, float("nan"), None, "a", -1, 2**40):
        for use in (seeded, lambda *a: initialised(*a, lambda: torch.nn.Linear(1, 1))):
            with pytest.raises(CepnbError, match="^seed .*: use an integer from 0 to 2147483647$"):
                use(seed, "a")
    one = torch.randn(3, generator=seeded(1, "a"))
    assert torch.equal(torch.randn(3, generator=seeded(np.int64(1), "a")), one)


def test_a_damaged_checkpoint_names_its_fix(tmp_path: Path) -> None:
    net, loss = regression()
    (tmp_path / "c").write_bytes(b"torn")
    with pytest.raises(CepnbError, match="c: not a complete .*; delete it to train from the first"):
        train(loss, {"net": net}, PLAN, seeded(0, "a"), checkpoint=tmp_path / "c", progress=False)
