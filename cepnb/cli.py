"""The command line: `python -m cepnb COMMAND`. Bad input ends in one line on standard error and exit status 2."""

import argparse
import ast
import json
import os
from pathlib import Path

from cepnb.errors import CepnbError, exit_status
from cepnb.profiles import PROFILE_NAMES, profile_name


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 2 bad input or a failed write or run, 130 interrupted."""
    options = _parser().parse_args(arguments)
    return exit_status("cepnb", lambda: options.command(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cepnb", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    qgpo = commands.add_parser(
        "qgpo", help="train and evaluate QGPO on an offline dataset, all five steps"
    )
    qgpo.add_argument(
        "--dataset",
        required=True,
        help="local/maze2d-umaze, d4rl/maze2d-umaze-v1, minari/mujoco/hopper/medium-v0 and the like, or a D4RL HDF5 file",
    )
    qgpo.add_argument(
        "--environment",
        help="maze2d-umaze, -medium or -large, hopper, halfcheetah, walker2d, antmaze-umaze, -umaze-diverse, -medium-play and the like: where to evaluate, if the dataset does not say it",
    )
    qgpo.add_argument(
        "--profile", help=f"{', '.join(PROFILE_NAMES)} (default: $CEPNB_PROFILE, else laptop)"
    )
    qgpo.add_argument(
        "--seed", type=int, default=0, help="seed of training and evaluation (the data has its own)"
    )
    qgpo.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for models and metrics.json; resumed if begun",
    )
    qgpo.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change one setting"
    )
    qgpo.add_argument(
        "--device",
        default="cpu",
        help="where networks are trained and asked: cpu (the default) or cuda",
    )
    qgpo.set_defaults(command=_qgpo)

    sweep = commands.add_parser(
        "sweep", help="QGPO for many tasks, seeds and options in parallel processes, into one table"
    )
    sweep.add_argument(
        "config",
        type=Path,
        metavar="CONFIG",
        help="a TOML file: datasets, seeds, profile, set, options",
    )
    sweep.add_argument(
        "--out",
        type=Path,
        help="folder for runs and tables (default: runs/NAME for NAME.toml); gone on with if begun",
    )
    sweep.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        help="runs at a time (default: one a core)",
    )
    sweep.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="run on the Dask cluster of this scheduler, tcp://HOST:PORT, whose workers see the same folder",
    )
    sweep.add_argument("--device", default="cpu", help="as of qgpo; all workers share one GPU")
    sweep.set_defaults(command=_sweep)

    report = commands.add_parser(
        "report", help="the scores of a sweep or of finished runs as tables, over their seeds"
    )
    report.add_argument(
        "scores",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="folder of a sweep or of runs, or a scores.csv or metrics.json",
    )
    report.set_defaults(command=_report)

    toy = commands.add_parser(
        "toy", help="train a method on a toy density and measure it against the exact answer"
    )
    toy.add_argument(
        "--table",
        action="store_true",
        help="all densities, β and methods instead: table.md, records.json, samples.png",
    )
    toy.add_argument(
        "--density", help="8gaussians, swissroll, moons, rings, checkerboard or 2spirals"
    )
    toy.add_argument(
        "--method",
        action="append",
        help="exact, exact_energy, cep_raw, cep_self, cep_independent, cep_beta, mse, exp_mse or dps; with --table, several by naming it again (default: all)",
    )
    toy.add_argument("--beta", type=float, help="inverse temperature, above 0")
    toy.add_argument(
        "--seed",
        type=int,
        action="append",
        help="seed (default 0); with --table, several by naming it again",
    )
    toy.add_argument("--scale", type=float, default=1.0, help="guidance scale s; 1 is exact")
    toy.add_argument(
        "--profile", help=f"{', '.join(PROFILE_NAMES)} (default: $CEPNB_PROFILE, else laptop)"
    )
    toy.add_argument(
        "--out",
        type=Path,
        help="folder for networks and records (default: in the cache); resumed if begun",
    )
    toy.add_argument("--json", action="store_true", help="print the record as JSON")
    toy.set_defaults(command=_toy)

    data = commands.add_parser(
        "data", help="make a local dataset (at first use) and print where it is"
    )
    data.add_argument(
        "--dataset",
        required=True,
        help="local/maze2d-umaze, -medium or -large, or with -noisy behind it; local/hopper-medium, halfcheetah or walker2d, -medium-replay or -medium-expert",
    )
    data.add_argument(
        "--profile",
        help="whose number of transitions to make (default: $CEPNB_PROFILE, else laptop)",
    )
    data.set_defaults(command=_data)

    agent = commands.add_parser(
        "agent",
        help="train the agents that local locomotion data is made by (they come with the package)",
    )
    agent.add_argument("--environment", required=True, help="hopper, halfcheetah or walker2d")
    agent.add_argument(
        "--steps", type=int, help="environment steps (default: those of the agents that come along)"
    )
    agent.add_argument("--seed", type=int, default=0, help="seed of the training")
    agent.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for NAME.safetensors and what is kept on the way",
    )
    agent.set_defaults(command=_agent)

    bench = commands.add_parser(
        "bench",
        help="how fast the package is here, against the machine's limits and the paper's code",
    )
    bench.add_argument(
        "--peer",
        type=Path,
        metavar="PATH",
        help="a checkout of the paper's public code, timed in turns with ours",
    )
    bench.add_argument(
        "--growth",
        action="store_true",
        help="how time and memory grow with data, K, evaluations, width and points instead",
    )
    bench.add_argument(
        "--toys",
        action="store_true",
        help="how long training takes until samples of the toy densities are good instead",
    )
    bench.add_argument(
        "--full", action="store_true", help="with --growth: datasets of 10,000,000 rows, too"
    )
    bench.add_argument(
        "--rows", nargs="+", default=[], metavar="NAME", help="only these rows of the table"
    )
    bench.add_argument(
        "--repeats",
        type=int,
        help="turns, of which the medians are given (default 7); with --toys training seeds (default 1)",
    )
    bench.add_argument("--json", action="store_true", help="print the record as JSON")
    bench.set_defaults(command=_bench)

    whole = commands.add_parser(
        "bench-run",
        help="how long the paper's whole training of one task takes on a GPU, part by part",
    )
    whole.add_argument("--device", default="cuda", help="cuda (the default) or cpu")
    whole.add_argument(
        "--seeds", type=int, default=1, help="training seeds in one batched model (default 1)"
    )
    whole.add_argument(
        "--fraction",
        type=float,
        default=1.0,
        help="run only this part of every step and reckon the rest at its rate",
    )
    whole.add_argument(
        "--dataset",
        help="a dataset by name, as of qgpo (default: random numbers of halfcheetah's size)",
    )
    whole.add_argument(
        "--peer",
        type=Path,
        metavar="PATH",
        help="a checkout of the paper's public code, timed on the same device and data",
    )
    whole.add_argument("--eager", action="store_true", help="do not replay steps as CUDA graphs")
    whole.add_argument(
        "--compile", action="store_true", help="compile the networks by torch.compile"
    )
    whole.add_argument(
        "--tf32",
        action="store_true",
        help="allow TensorFloat-32 in products of matrices, in both codes",
    )
    whole.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change one setting of the paper profile",
    )
    whole.add_argument("--out", type=Path, help="folder for bench_run.json and bench_run.md")
    whole.add_argument("--json", action="store_true", help="print the record as JSON")
    whole.set_defaults(command=_bench_run)
    return parser


def _qgpo(options: argparse.Namespace) -> None:
    from cepnb.datasets.registry import evaluated_in, load_task
    from cepnb.diffusion.devices import device_named
    from cepnb.qgpo.pipeline import run_qgpo, scores_text
    from cepnb.qgpo.settings import qgpo_settings, tuning_of

    profile = profile_name(options.profile)
    environment = evaluated_in(options.dataset, options.environment)
    chosen = qgpo_settings(
        profile, tuning_of(environment), **dict(_assignment(text) for text in options.set)
    )
    _check_seed(options.seed)
    device = device_named(options.device)
    dataset = load_task(options.dataset, environment, chosen.transitions, chosen.data_seed)
    metrics = run_qgpo(
        dataset, environment, chosen, profile, options.seed, options.out, device=device
    )
    print(scores_text(metrics["scores"]))
    print(
        f"\n{sum(metrics['seconds'].values()):.0f} s; all numbers are in {options.out / 'metrics.json'}"
    )


def _sweep(options: argparse.Namespace) -> None:
    from cepnb.diffusion.devices import device_named
    from cepnb.experiments.cluster import jobs_at
    from cepnb.experiments.executor import run_jobs
    from cepnb.experiments.report import report
    from cepnb.experiments.scores import summed_up
    from cepnb.experiments.sweep import run_sweep
    from cepnb.experiments.sweep_file import read_sweep
    from cepnb.notebook.score_plots import sweep_figure
    from cepnb.storage.files import atomic_path, write_text

    if options.workers < 1:
        raise CepnbError(f"--workers {options.workers}: expected at least 1")
    sweep = read_sweep(options.config)
    folder, run = options.out or Path("runs") / options.config.stem, run_jobs
    if options.cluster:
        folder, run = (
            folder.absolute(),
            jobs_at(options.cluster),
        )  # a worker's own folder is another, and so is its device
    else:
        device_named(options.device)
    rows, failures = run_sweep(sweep, folder, options.workers, run=run, device=options.device)
    if rows:
        write_text(folder / "table.md", report(rows) + "\n")
        with atomic_path(folder / "scores.png") as path:
            sweep_figure(summed_up(rows)).savefig(path, format="png", dpi=110)
        print(
            f"{report(rows)}\n\nAlso in {folder / 'table.md'}; a figure in {folder / 'scores.png'}, every number in {folder / 'scores.csv'}"
        )
    if failures:
        reasons = "; ".join(f"{job.folder}: {reason}" for job, reason in failures)
        raise CepnbError(f"runs that failed: {len(failures)}, all others are kept ({reasons})")


def _toy(options: argparse.Namespace) -> None:
    from cepnb.densities import benchmark
    from cepnb.densities.methods import METHODS
    from cepnb.densities.settings import toy_settings
    from cepnb.notebook.plots import sample_grid
    from cepnb.storage.files import atomic_path, cache_dir, write_text

    profile = profile_name(options.profile)
    folder, seeds = options.out or cache_dir() / "toys" / profile, options.seed or [0]
    for seed in seeds:
        _check_seed(seed)
    for method in options.method or []:
        if method not in METHODS:
            raise CepnbError(f"method '{method}': expected one of {', '.join(METHODS)}")
    if options.table:
        records = benchmark.table(
            toy_settings(profile), profile, seeds, folder, options.method or METHODS
        )
        text = "\n\n".join(
            f"{key}\n\n{benchmark.records_table(records, key)}" for key in benchmark.SHOWN
        )
        write_text(folder / "table.md", text + "\n")
        if not (folder / "samples.png").exists():
            with atomic_path(folder / "samples.png") as path:
                sample_grid(
                    benchmark.samples(toy_settings(profile), profile, seeds[0], folder)
                ).savefig(path, format="png", dpi=110)
        print(f"{text}\n\nAlso in {folder / 'table.md'}; samples in {folder / 'samples.png'}")
        return
    for name in ("density", "method", "beta"):
        if getattr(options, name) is None:
            raise CepnbError(f"--{name}: missing, expected with every toy run but --table")
    for name, given in (("seed", seeds), ("method", options.method)):
        if len(given) > 1:
            raise CepnbError(
                f"--{name} {given[1]}: a second one, expected one {name} unless with --table"
            )
    found = benchmark.record(
        options.density,
        options.method[0],
        options.beta,
        seeds[0],
        toy_settings(profile),
        profile,
        folder,
        options.scale,
        progress=not options.json,
    )
    print(
        json.dumps(found, indent=2)
        if options.json
        else "\n".join(
            f"{key:<26}{value:.4g}" if isinstance(value, float) else f"{key:<26}{value}"
            for key, value in found.items()
        )
    )


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**31:
        raise CepnbError(f"seed {seed}: expected an integer from 0 to 2147483647")


def _report(options: argparse.Namespace) -> None:
    from cepnb.experiments.report import report
    from cepnb.experiments.scores import load_scores

    print(report(load_scores(options.scores)))


def _data(options: argparse.Namespace) -> None:
    from cepnb.datasets.local import local_dataset
    from cepnb.qgpo.settings import qgpo_settings

    chosen = qgpo_settings(options.profile)
    print(local_dataset(options.dataset, chosen.transitions, chosen.data_seed))


def _agent(options: argparse.Namespace) -> None:
    from cepnb.datasets.sac import make_history

    _check_seed(options.seed)
    print(make_history(options.environment, options.steps, options.seed, options.out))


def _bench(options: argparse.Namespace) -> None:
    if options.growth and (options.peer or options.toys):
        raise CepnbError(
            f"{'--peer' if options.peer else '--toys'}: not with --growth, expected one of the two"
        )
    if options.full and not options.growth:
        raise CepnbError("--full: expected with --growth alone")
    counts = {} if options.repeats is None else {"repeats": options.repeats}
    if options.growth:
        from cepnb.tools.bench.growth import growth
        from cepnb.tools.bench.growth import growth_markdown as markdown

        record = growth(options.rows, full=options.full, **counts)
    elif options.toys:
        from cepnb.tools.bench.quality import quality
        from cepnb.tools.bench.quality import quality_markdown as markdown

        record = quality(options.rows, peer=options.peer, **counts)
    else:
        from cepnb.tools.bench.table import measured
        from cepnb.tools.bench.table import rows_markdown as markdown

        record = measured(options.rows, peer=options.peer, **counts)
    print(json.dumps(record, indent=2) if options.json else markdown(record))


def _bench_run(options: argparse.Namespace) -> None:
    from cepnb.datasets.registry import load_dataset
    from cepnb.qgpo.settings import qgpo_settings
    from cepnb.storage.files import write_json, write_text
    from cepnb.tools.bench.whole import BenchConfig, whole_markdown, whole_run

    chosen = qgpo_settings("paper", **dict(_assignment(text) for text in options.set))
    way = BenchConfig(
        options.device,
        options.seeds,
        options.fraction,
        not options.eager,
        options.compile,
        options.tf32,
    )
    dataset = (
        load_dataset(options.dataset, chosen.transitions, chosen.data_seed)
        if options.dataset
        else None
    )
    record = whole_run(chosen, way, dataset, options.peer, progress=not options.json)
    if options.out:
        write_json(options.out / "bench_run.json", record)
        write_text(options.out / "bench_run.md", whole_markdown(record) + "\n")
    print(json.dumps(record, indent=2) if options.json else whole_markdown(record))


def _assignment(text: str) -> tuple[str, object]:
    from cepnb.qgpo.settings import Settings, coerce

    name, equals, value = text.partition("=")
    try:
        parsed = ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        parsed = None
    known = {field: type(default) for field, default in vars(Settings()).items()}
    if name in known:
        parsed = coerce(name, value if known[name] is str else parsed)
    if not equals or (name in known and parsed is None):
        raise CepnbError(
            f"--set {text}: expected NAME=VALUE"
            + (f" with a {known[name].__name__}" if name in known else "")
        )
    return name, parsed
