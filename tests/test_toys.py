"""Methods on toy densities: what they are made of, how they are measured, and the command that runs them."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from cepnb.cli import main
from cepnb.densities import benchmark
from cepnb.densities.methods import (
    LEARNED,
    METHODS,
    Models,
    at_beta,
    guided_samples,
    score_net,
    toy_energy_net,
    train_toy_energy,
)
from cepnb.densities.metrics import effective_samples, gradient_error, mean_interval, mmd, w2
from cepnb.densities.mixtures import GaussianMixture
from cepnb.densities.settings import toy_settings
from cepnb.densities.toys import DENSITIES, density
from cepnb.diffusion import losses
from cepnb.diffusion.guidance import dps_energy, energy_gradient
from cepnb.diffusion.schedule import VPSchedule
from cepnb.diffusion.training import seeded
from cepnb.errors import CepnbError

SCHEDULE = VPSchedule()


def test_mmd_and_effective_samples_and_intervals() -> None:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 500, 2, generator=g)
    assert mmd(x, x) == pytest.approx(0, abs=1e-3) and 0 < mmd(x, y) < 0.06 < mmd(x, y + 0.5)
    assert effective_samples(torch.full((7,), -3.0)).item() == pytest.approx(7)
    assert effective_samples(torch.tensor([0.0, -100.0])).item() == pytest.approx(1)
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx(
        (2.0, 2.4841), abs=1e-3
    )  # t of 2 degrees: 4.3027/√3
    assert mean_interval([5.0])[1] != mean_interval([5.0])[1]


def test_a_share_of_the_times_is_even_in_half_log_snr() -> None:
    t = SCHEDULE.draw_times(40_000, torch.Generator().manual_seed(0), early=0.5)
    assert SCHEDULE.t_min <= t.min() and t.max() <= 1
    lam = SCHEDULE.half_log_snr(t[:20_000].double())
    low, high = SCHEDULE.half_log_snr(
        torch.tensor([1.0, SCHEDULE.t_min], dtype=torch.float64)
    ).tolist()
    share = torch.histc((lam - low) / (high - low), 10, 0, 1) / 20_000
    assert (share - 0.1).abs().max() < 0.015  # 7 standard errors of counting
    assert t[20_000:].mean().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("make", [score_net, toy_energy_net])
def test_networks_of_the_plane_take_any_leading_axes(make) -> None:
    net = make(density("moons"), toy_settings("ci"), 0)
    x, t = (
        torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0.1, 0.4, 0.7, 1.0]),
    )
    together = net(x, t)
    apart = torch.stack([torch.stack([net(x[i, j], t[i]) for j in range(3)]) for i in range(4)])
    torch.testing.assert_close(together, apart)


def test_an_untrained_score_is_bounded_at_the_end_of_time() -> None:
    """x̂_0 = (x − σε)/α must not magnify the network's errors by 1/α_1 = 150."""
    net = score_net(density("rings"), toy_settings("ci"), 0)
    x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    t = torch.tensor(1.0)
    x0 = (x - SCHEDULE.sigma(t) * net(x, t)) / SCHEDULE.alpha(t)
    assert x0.abs().max() < 5


@pytest.mark.parametrize("method", LEARNED)
def test_every_learned_method_learns(method: str) -> None:
    """Under the tiny profile, guided by each, samples are nearer to p_0 than without guidance."""
    q, settings, beta = density("8gaussians"), toy_settings("ci"), 3.0
    f = train_toy_energy(method, q, beta, settings, 0, progress=False).requires_grad_(False)
    exact, _ = q.tilted(beta).sample(settings.samples, seeded(0, "exact"))
    distances = [
        w2(guided_samples(q.eps, energy_gradient(f), q, settings, seeded(0, "start"), scale), exact)
        for scale in (0.0, 1.0)
    ]
    assert distances[1] < 0.75 * distances[0]


def test_shipped_networks_are_of_the_current_settings_and_good() -> None:
    for name in DENSITIES:
        models = benchmark.shipped(name)
        stored = json.loads((models.run.folder / "settings.json").read_text())
        assert stored["settings"] == json.loads(json.dumps(asdict(toy_settings("laptop"))))
        assert {path.name for path in models.run.folder.iterdir()} == {
            "settings.json",
            "score.safetensors",
            "cep_beta.safetensors",
        }
        eps, gradient = models.guidance("cep_beta", 3.0)
        sets = [models.density.tilted(3.0).sample(2000, seeded(k, "shipped"))[0] for k in range(2)]
        x = guided_samples(eps, gradient, models.density, models.settings, seeded(2, "shipped"))
        unguided = guided_samples(
            eps, gradient, models.density, models.settings, seeded(2, "shipped"), scale=0.0
        )
        assert mmd(x, sets[0]) < min(4 * mmd(sets[1], sets[0]), 0.5 * mmd(unguided, sets[0]))


def test_the_command_makes_the_files_that_are_shipped(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = [
        "toy",
        "--density",
        "moons",
        "--method",
        "cep_beta",
        "--beta",
        "3",
        "--profile",
        "ci",
        "--out",
        str(tmp_path),
        "--json",
    ]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"w2", "w2_floor", "w2_ratio", "mmd_ratio", "energy_gradient_mse", "seconds"} <= set(
        found
    )
    assert (
        found["w2_ratio"] == pytest.approx(found["w2"] / found["w2_floor"]) and found["seconds"] > 0
    )
    folder = tmp_path / "moons/seed0"
    assert {"settings.json", "score.safetensors", "cep_beta.safetensors"} <= {
        path.name for path in folder.iterdir()
    }
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert (
        main(command) == 0 and json.loads(capsys.readouterr().out) == found
    )  # read, not made again
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    other = [*command, "--seed", "1"]
    assert main(other) == 0 and (tmp_path / "moons/seed1/score.safetensors").exists()


def test_exact_rows_are_exact(tmp_path: Path) -> None:
    models = Models(
        density("moons"), toy_settings("ci"), 0, tmp_path, {"settings": {}}, progress=False
    )
    eps, gradient = models.guidance("exact", 3.0)
    q, x, t = (
        models.density,
        torch.randn(20, 2, generator=torch.Generator().manual_seed(0)),
        torch.tensor(0.3),
    )
    torch.testing.assert_close(gradient(x, t), q.intermediate_energy_gradient(x, t, 3.0))
    torch.testing.assert_close(eps(x, t), q.eps(x, t))
    with pytest.raises(CepnbError, match="method 'cpe': expected one of exact, "):
        models.guidance("cpe", 3.0)


def test_table_of_two_seeds() -> None:
    records = [
        {"density": "moons", "beta": 1.0, "method": method, "seed": seed, "w2_ratio": value}
        for method, values in (("exact", (1.0, 1.2)), ("mse", (2.0, 2.0)))
        for seed, value in enumerate(values)
    ]
    lines = benchmark.records_table(records).splitlines()
    assert (
        lines[0] == "| density | β | exact | mse |"
        and lines[2] == "| moons | 1 | 1.10 ± 1.27 | 2.00 ± 0.00 |"
    )
    lines = benchmark.records_table([*records[:3], records[0] | {"beta": 3.0}]).splitlines()
    assert (
        lines[0] == "| density | β | exact (seeds: 1–2) | mse (seeds: 0–1) |"
        and lines[3] == "| moons | 3 | 1.00 | – |"
    )
    lines = benchmark.records_table(
        [*records[:3], records[0] | {"beta": 3.0}], intervals=False
    ).splitlines()
    assert lines[0] == "| density | β | exact | mse |" and lines[2] == "| moons | 1 | 1.10 | 2.00 |"


def test_seeds_add_up_from_the_records_alone(tmp_path: Path) -> None:
    """What is kept of a table is its records and settings: those are enough to go on, and other settings are refused."""
    cases = dict(methods=("exact",), names=("moons",), betas=(1.0,), progress=False)
    (first,) = benchmark.table(toy_settings("ci"), "ci", [0], tmp_path, **cases)
    shutil.rmtree(tmp_path / "moons")
    both = benchmark.table(toy_settings("ci"), "ci", [1], tmp_path, **cases)
    assert both[0] == first and both[1]["seed"] == 1 and not (tmp_path / "moons/seed0").exists()
    assert json.loads((tmp_path / "records.json").read_text()) == both
    with pytest.raises(CepnbError, match="settings.json: made with "):
        benchmark.table(replace(toy_settings("ci"), samples=100), "ci", [0], tmp_path, **cases)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["--density", "moon", "--method", "mse", "--beta", "1"],
            "density 'moon': expected one of",
        ),
        (["--density", "moons", "--method", "msе", "--beta", "1"], "method 'msе': expected one of"),
        (
            ["--density", "moons", "--method", "mse", "--beta", "0"],
            "beta 0.0: expected a finite number above 0",
        ),
        (
            ["--density", "moons", "--method", "mse", "--beta", "inf"],
            "beta inf: expected a finite number above 0",
        ),
        (
            ["--density", "moons", "--method", "exact", "--beta", "1", "--scale", "-1"],
            "scale -1.0: expected a finite number",
        ),
        (["--density", "moons", "--method", "mse"], "--beta is missing"),
        (["--table", "--profile", "big"], "profile 'big': expected one of"),
        (["--table", "--seed", "-1"], "seed -1: expected an integer"),
        (
            ["--density", "moons", "--method", "mse", "--beta", "1", "--seed", "0", "--seed", "1"],
            "--seed 1: more than one seed; use --table",
        ),
        (
            ["--density", "moons", "--method", "mse", "--method", "dps", "--beta", "1"],
            "--method dps: more than one method; use --table",
        ),
        (
            ["--table", "--method", "mse", "--method", "cfg"],
            "method 'cfg': expected one of exact, exact_energy",
        ),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["toy", "--profile", "ci", "--out", str(tmp_path), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_cep_with_the_prior_as_normaliser_is_info_nce() -> None:
    """Averaged over classes, Eq. 12 with labels q(c|x)/q(c) is the mean over pairs of cross-entropy among K candidates."""
    g = torch.Generator().manual_seed(0)
    f, posterior, prior = (
        torch.randn(5, 3, generator=g),
        torch.randn(5, 3, generator=g).softmax(1),
        torch.rand(3, generator=g).softmax(0),
    )
    ours = sum(
        prior[c] * losses.cep(f[:, c], -posterior[:, c].log(), prior[c].log()) for c in range(3)
    )
    theirs = sum(
        posterior[i, c] * cross_entropy(-f[:, c], torch.tensor(i))
        for i in range(5)
        for c in range(3)
    )
    torch.testing.assert_close(ours, theirs)


def test_one_network_for_all_beta_is_conditioned_on_it() -> None:
    net = toy_energy_net(density("moons"), toy_settings("ci"), 0, condition_dim=2)
    x, t = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), torch.tensor(0.3)
    assert not torch.allclose(at_beta(net, 1.0)(x, t), at_beta(net, 10.0)(x, t))
    assert set(METHODS) >= set(LEARNED)


def test_optima_of_mse_and_dps_and_where_they_are_exact() -> None:
    """MSE's optimum, by regression on samples, is the mean of βE given x_t and never below E_t. For a linear energy on one
    Gaussian DPS (and with it MSE) has the exact gradient; for a quadratic one it has not."""
    q, t, beta = density("8gaussians"), torch.tensor(0.3), 5.0
    x0, energy = q.sample(400_000, torch.Generator().manual_seed(0))
    xt = SCHEDULE.add_noise(
        x0, t, torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
    )
    cell = ((xt - torch.tensor([0.0, 1.0])).abs() < 0.1).all(
        dim=1
    )  # least squares on one small cell is a mean
    centre = torch.tensor([0.0, 1.0])
    optimum = beta * q.log_joint(centre, t).softmax(-1) @ q.energies
    spread = beta * energy[cell].std() / cell.sum().sqrt()
    assert (
        abs(beta * energy[cell].mean() - optimum) < 4 * spread + 0.02
    )  # and a little for the width of the cell
    plane = 2 * torch.randn(1000, 2, generator=torch.Generator().manual_seed(2))
    assert (
        beta * q.log_joint(plane, t).softmax(-1) @ q.energies
        - q.intermediate_energy(plane, t, beta)
    ).min() > -1e-5

    one = dict(
        log_weights=torch.zeros(1),
        energies=torch.zeros(1),
        means=torch.tensor([[0.5, -0.3]]),
        deviations=torch.tensor([1.2]),
    )
    for extra, exact in (
        ({"linear": torch.tensor([0.7, -0.4])}, True),
        ({"quadratic": 1.0}, False),
    ):
        gaussian = GaussianMixture(**one, **extra)
        f = dps_energy(gaussian.eps, gaussian.energy, 3.0, SCHEDULE)
        error = gradient_error(
            energy_gradient(f),
            gaussian,
            3.0,
            torch.tensor([0.2, 0.5]),
            generator=torch.Generator().manual_seed(0),
        )
        assert (error.max() < 1e-8) if exact else (error.min() > 0.1)


def test_classifier_guidance_is_the_energy_of_a_class() -> None:
    """With E = 0 for one component and E → ∞ for the others, E_t = −log q(c | x_t): a classifier of noised samples."""
    q = DENSITIES["8gaussians"](torch.float64)
    x = 2 * torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    time = torch.tensor(0.4, dtype=torch.float64)
    for c in range(8):
        only = replace(q, energies=(torch.arange(8) != c).double())
        torch.testing.assert_close(
            only.intermediate_energy(x, time, 500.0), -q.log_joint(x, time).log_softmax(-1)[:, c]
        )
