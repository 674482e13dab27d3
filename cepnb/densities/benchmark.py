"""Every method measured against the exact answer on every density: one record a case, and the table of all of them."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

import torch
from tqdm.auto import tqdm

from cepnb.densities.methods import METHODS, Models, guided_samples
from cepnb.densities.metrics import gradient_moments, mean_interval, mmd, w2
from cepnb.densities.mixtures import Density
from cepnb.densities.settings import ToySettings, toy_settings
from cepnb.densities.toys import DENSITIES
from cepnb.densities.toys import density as toy_density
from cepnb.diffusion.losses import check_beta
from cepnb.diffusion.training import seeded
from cepnb.errors import CepnbError
from cepnb.storage.files import read_json, write_json
from cepnb.storage.runs import Run

BETAS = (1.0, 3.0, 10.0, 20.0)
SHOWN = ("w2_ratio", "mmd_ratio", "energy_gradient_mse")  # in the table
PICTURED = ("exact", "cep_self", "mse", "dps")  # in the grid of samples
TIMES = torch.linspace(0.1, 0.9, 9)  # at which the gradient is compared


def models_of(
    name: str, settings: ToySettings, profile: str, seed: int, folder: Path, progress: bool = True
) -> Models:
    """The networks of a named toy density, kept in `folder`/density/seed."""
    configuration = {
        "density": name,
        "profile": profile,
        "seed": seed,
        "settings": asdict(settings),
    }
    return Models(
        toy_density(name), settings, seed, folder / name / f"seed{seed}", configuration, progress
    )


def shipped(name: str) -> Models:
    """ε_θ and the energy for all β of a toy density as they come with the package, trained under the `laptop` profile, seed 0.

    Made by `python -m cepnb toy --density NAME --method cep_beta --beta 1 --profile laptop --out cepnb/checkpoints`, of whose
    files the settings and the two networks are kept.
    """
    return models_of(
        name,
        toy_settings("laptop"),
        "laptop",
        0,
        Path(__file__).parents[1] / "assets/checkpoints",
        progress=False,
    )


def measure(models: Models, method: str, beta: float, scale: float = 1.0) -> dict:
    """Guided samples against exact ones: `settings.repeats` independent sets, each of `settings.samples`.

    `w2` is the mean distance of guided sets to exact ones, `w2_floor` that of exact sets to other exact sets, `w2_ratio`
    their quotient; so for `mmd_ratio`. `energy_gradient_mse` is the mean over nine times from 0.1 to 0.9 of E_{p_t}
    ‖∇f − ∇E_t‖², `energy_gradient_relative` that of its ratio to E_{p_t} ‖∇E_t‖². `effective_share` = E[w]²/E[w²] with
    w = e^{−βE} under q_0 is what part of plain samples reweighting would leave. Raises `CepnbError` unless β > 0 and the
    scale ≥ 0.
    """
    check_beta(beta)
    if not 0 <= scale < float("inf"):
        raise CepnbError(f"scale {scale}: expected a finite number, 0 or more")
    density, settings = models.density, models.settings
    eps, gradient = models.guidance(method, beta)
    floor = _floor(models, beta)
    distances = {"w2": [], "mmd": []}
    for repeat in range(settings.repeats):
        x = guided_samples(
            eps, gradient, density, settings, seeded(models.seed, f"toy start {repeat}"), scale
        )
        exact = exact_sets(density, beta, settings, models.seed, repeat)[0]
        for key, distance in (("w2", w2), ("mmd", mmd)):
            distances[key].append(distance(x, exact))
    error, size = gradient_moments(
        lambda xt, t: scale * gradient(xt, t),
        density,
        beta,
        TIMES,
        2000,
        seeded(models.seed, "toy gradient"),
    )
    return {
        "w2": fmean(distances["w2"]),
        "w2_floor": floor["w2"],
        "w2_ratio": fmean(distances["w2"]) / floor["w2"],
        "mmd_ratio": fmean(distances["mmd"]) / floor["mmd"],
        "energy_gradient_mse": error.mean().item(),
        "energy_gradient_relative": (error / size).mean().item(),
        "effective_share": (2 * density.log_partition(beta) - density.log_partition(2 * beta))
        .exp()
        .item(),
        "seconds": models.seconds(method, beta),
    }


def record(
    name: str,
    method: str,
    beta: float,
    seed: int,
    settings: ToySettings,
    profile: str,
    folder: Path,
    scale: float = 1.0,
    progress: bool = True,
) -> dict:
    """One case of the table: read if it has been measured, else measured and written."""
    models = models_of(name, settings, profile, seed, folder, progress)
    path = models.run.folder / f"{method}_beta{beta:g}_scale{scale:g}.json"
    if path.exists():
        return read_json(path)
    case = {
        "density": name,
        "method": method,
        "beta": beta,
        "seed": seed,
        "scale": scale,
        "profile": profile,
    }
    found = case | measure(models, method, beta, scale)
    write_json(path, found)
    return found


def table(
    settings: ToySettings,
    profile: str,
    seeds: Iterable[int],
    folder: Path,
    methods: Iterable[str] = METHODS,
    names: Iterable[str] = DENSITIES,
    betas: Iterable[float] = BETAS,
    progress: bool = True,
) -> list[dict]:
    """All cases of the arguments, and what `folder`/records.json holds already; the file is written again with both.

    So seeds add up from call to call, also where the file alone has been kept and not the networks. Killed and called
    again, it goes on where it was. Raises `CepnbError` if the file was made with other settings.
    """
    Run(folder, {"profile": profile, "settings": asdict(settings)})
    path = folder / "records.json"
    known = {_case(found): found for found in (read_json(path) if path.exists() else [])}
    cases = [
        (seed, name, beta, method)
        for seed in seeds
        for name in names
        for beta in betas
        for method in methods
    ]
    for seed, name, beta, method in tqdm(cases, desc="table", disable=not progress):
        if (seed, name, beta, method) not in known:
            known[seed, name, beta, method] = record(
                name, method, beta, seed, settings, profile, folder, progress=progress
            )
    write_json(path, list(known.values()))
    return list(known.values())


def _case(found: dict) -> tuple[int, str, float, str]:
    return found["seed"], found["density"], found["beta"], found["method"]


def samples(
    settings: ToySettings,
    profile: str,
    seed: int,
    folder: Path,
    methods: Iterable[str] = PICTURED,
    names: Iterable[str] = DENSITIES,
    betas: Iterable[float] = BETAS,
) -> dict[tuple[str, str, float], torch.Tensor]:
    """Guided samples of (density, method, β); "exact" are samples of p_0 itself."""
    found = {}
    for name in names:
        models = models_of(name, settings, profile, seed, folder)
        for method in methods:
            for beta in betas:
                generator = seeded(seed, "toy picture")
                if method == "exact":
                    found[name, method, beta] = models.density.tilted(beta).sample(
                        settings.samples, generator
                    )[0]
                else:
                    found[name, method, beta] = guided_samples(
                        *models.guidance(method, beta), models.density, settings, generator
                    )
    return found


def records_table(records: list[dict], key: str = "w2_ratio", intervals: bool = True) -> str:
    """One number of all records as a table: a row for each density and β, a column a method, mean ± 95 % over seeds.

    The head names the number of seeds of a column where not all have as many; a case without any is a dash. Without
    `intervals` there are means alone, in a table narrow enough for a page.
    """
    values: dict[tuple[str, str, float], list[float]] = {}
    for found in records:
        values.setdefault((found["method"], found["density"], found["beta"]), []).append(found[key])
    methods = list(dict.fromkeys(record["method"] for record in records))
    rows = list(dict.fromkeys((record["density"], record["beta"]) for record in records))
    seeds = {method: {len(values.get((method, *row), [])) for row in rows} for method in methods}
    alike = len(set.union(*seeds.values())) == 1
    heads = (
        methods
        if alike or not intervals
        else [
            f"{m} (seeds: {'–'.join(map(str, sorted({min(n), max(n)})))})" for m, n in seeds.items()
        ]
    )
    lines = ["| density | β | " + " | ".join(heads) + " |", "|---" * (len(methods) + 2) + "|"]
    for name, beta in rows:
        cells = [_cell(values.get((method, name, beta), []), intervals) for method in methods]
        lines.append(f"| {name} | {beta:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: list[float], interval: bool) -> str:
    if not values:
        return "–"
    mean, half = (
        f"{value:.2f}" if value < 1000 else f"{value:.0e}" for value in mean_interval(values)
    )
    return f"{mean} ± {half}" if interval and len(values) > 1 else mean


def exact_sets(
    density: Density, beta: float, settings: ToySettings, seed: int, repeat: int
) -> list[torch.Tensor]:
    """Two independent sets of exact samples of p_0, `settings.samples` each: the `repeat`-th pair of a seed."""
    generator, p = seeded(seed, f"toy exact {repeat}"), density.tilted(beta)
    return [p.sample(settings.samples, generator)[0] for _ in range(2)]


def _floor(models: Models, beta: float) -> dict[str, float]:
    """Mean distances between exact sets: measured once a density, β and seed."""
    path = models.run.folder / f"floor_beta{beta:g}.json"
    if not path.exists():
        pairs = [
            exact_sets(models.density, beta, models.settings, models.seed, repeat)
            for repeat in range(models.settings.repeats)
        ]
        write_json(
            path,
            {
                key: fmean(distance(*pair) for pair in pairs)
                for key, distance in (("w2", w2), ("mmd", mmd))
            },
        )
    return read_json(path)
