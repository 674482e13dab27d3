"""Measure how long training takes until guided samples of a toy density are good."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from statistics import fmean
from time import perf_counter

import torch
from tqdm.auto import tqdm

from cepnb.densities.benchmark import exact_sets
from cepnb.densities.methods import guided_samples, train_score, train_toy_energy
from cepnb.densities.metrics import w2
from cepnb.densities.mixtures import Density
from cepnb.densities.settings import ToySettings, toy_settings
from cepnb.densities.toys import DENSITIES, density
from cepnb.diffusion.guidance import EpsFunction, energy_gradient
from cepnb.diffusion.training import seeded
from cepnb.experiments.report import markdown_table
from cepnb.tools.bench.peer import Peer, quiet
from cepnb.tools.bench.rows import Inputs
from cepnb.tools.bench.timing import conditions, conditions_text, selected

BETA = 3.0
BAR = 1.25  # W2 over its floor that counts as good; the expected ratio of exact samples is 1
STEP_SHARE = 0.25  # share of the laptop profile's steps: the smallest that reached the bar
PEER_CHECKS = (1, 2, 4, 8, 14, 20)  # multiples of our seconds after which the peer is measured
PEER_POINTS = 1_000_000  # samples in the peer's dataset
PEER_BLOCK = 20  # steps of the peer's score before as many steps of its energy

Ratio = Callable[[EpsFunction, EpsFunction], float]  # W2 over its floor, from ε and ∇f


def short_settings() -> ToySettings:
    """Return the laptop settings with `STEP_SHARE` of the training steps."""
    settings = toy_settings("laptop")
    return replace(
        settings,
        steps=round(STEP_SHARE * settings.steps),
        score_steps=round(STEP_SHARE * settings.score_steps),
    )


def quality(
    names: Sequence[str] = (), repeats: int = 1, peer: Path | None = None, progress: bool = True
) -> dict:
    """Measure the named densities (default: all) at β = `BETA` under `repeats` training seeds.

    Ours is one training of ε_θ and f_φ (self-normalised CEP, Eq. 13) with a decaying learning rate.
    If `peer` is a checkout of the paper's code, it trains with its own sizes and constant rates. It
    is measured on the way until its W2 over the floor is at most `BAR`, or at most ours if ours is
    larger. Seconds count training only, and our solver samples from both. Raises `CepnbError` on an
    unknown density, on fewer than one repeat, and on a wrong `peer`.
    """
    names, settings = selected("density", names, DENSITIES, repeats), short_settings()
    cases = [(name, seed) for name in names for seed in range(repeats)]
    found = []
    with tempfile.TemporaryDirectory() as folder, quiet(), torch.random.fork_rng(devices=[]):
        theirs = Peer(peer, Inputs(Path(folder), rows=2_000)) if peer else None
        with tqdm(total=len(cases), disable=not progress, leave=False) as bar:
            for name, seed in cases:
                bar.set_description(f"{name}, seed {seed}")
                found.append(_measured_case(name, seed, settings, theirs, bar.set_postfix_str))
                bar.update()
    return conditions(seeds=repeats) | {
        "beta": BETA,
        "bar": BAR,
        "steps": settings.steps,
        "score_steps": settings.score_steps,
        "cases": found,
    }


def _measured_case(
    name: str, seed: int, settings: ToySettings, peer: Peer | None, watch: Callable[[str], object]
) -> dict:
    q = density(name)
    exact = exact_sets(q, BETA, settings, seed)
    floor = fmean(w2(first, second) for first, second in exact)

    def ratio(eps: EpsFunction, gradient: EpsFunction) -> float:
        distances = []
        for repeat, (target, _) in enumerate(exact):
            start = seeded(seed, f"toy start {repeat}")
            distances.append(w2(guided_samples(eps, gradient, q, settings, start), target))
        return fmean(distances) / floor

    start = perf_counter()
    score = train_score(q, settings, seed, progress=False)
    energy = train_toy_energy("cep_self", q, BETA, settings, seed, progress=False)
    seconds = perf_counter() - start
    ours = ratio(score.requires_grad_(False), energy_gradient(energy.requires_grad_(False)))
    watch(f"{seconds:.0f} s: {ours:.2f}")
    target = max(BAR, ours)
    return {
        "density": name,
        "seed": seed,
        "seconds": seconds,
        "w2_ratio": ours,
        "target": target,
        "peer": _peer_checks(peer, q, seed, seconds, target, ratio, watch) if peer else [],
    }


def _peer_checks(
    peer: Peer,
    q: Density,
    seed: int,
    our_seconds: float,
    target: float,
    ratio: Ratio,
    watch: Callable[[str], object],
) -> list[dict]:
    """Train the paper's code until it reaches the target or the last of `PEER_CHECKS`."""
    torch.manual_seed(seed)
    model = peer.toy_model(q, BETA, PEER_POINTS)
    seconds, steps, checks = 0.0, 0, []
    for multiple in PEER_CHECKS:
        while seconds < multiple * our_seconds:
            start = perf_counter()
            for _ in range(PEER_BLOCK):
                model.score_step()
            for _ in range(PEER_BLOCK):
                model.energy_step()
            seconds += perf_counter() - start
            steps += PEER_BLOCK
        reached = ratio(model.eps, model.gradient)
        checks.append({"seconds": seconds, "steps": steps, "w2_ratio": reached})
        watch(f"the paper's code, {seconds:.0f} s: {reached:.2f}")
        if reached <= target:
            break
    return checks


def times_as_long(case: dict) -> tuple[float, float] | None:
    """Return the range of multiples of our seconds in which the paper's code reached the target.

    The upper end is inf if it never did. The result is None without measurements of the paper's
    code.
    """
    if not case["peer"]:
        return None
    multiples = [0.0, *(check["seconds"] / case["seconds"] for check in case["peer"])]
    if case["peer"][-1]["w2_ratio"] > case["target"]:
        return multiples[-1], inf
    return multiples[-2], multiples[-1]


def quality_markdown(record: dict) -> str:
    """Format a record of `quality` as a table with the steps and the machine below it."""
    head = (
        f"density, β = {record['beta']:g}",
        "seed",
        "seconds",
        "W2 over its floor",
        "the paper's code (after this multiple of our seconds)",
        "the paper's code is as good",
    )
    lines = []
    for case in record["cases"]:
        checks = [(c["w2_ratio"], c["seconds"] / case["seconds"]) for c in case["peer"]]
        measured = ", ".join(f"{ratio:.2f} ({multiple:.0f})" for ratio, multiple in checks)
        reached = ""
        if bounds := times_as_long(case):
            low, high = bounds
            reached = f"after {low:.0f} to {high:.0f} times"
            if high == inf:
                reached = f"not after {low:.0f} times"
        seconds, ratio = f"{case['seconds']:.0f}", f"{case['w2_ratio']:.2f}"
        lines.append((case["density"], case["seed"], seconds, ratio, measured, reached))
    ours = f"Ours: {record['score_steps']:,} score steps, {record['steps']:,} energy steps."
    return f"{markdown_table(head, lines)}\n\n{ours}\n{conditions_text(record)}"
