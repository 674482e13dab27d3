"""The command line: `python -m cepnb COMMAND`. Errors print one line to standard error and exit with status 2."""

import argparse
import ast
import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from cepnb.errors import CepnbError, Once, exit_status
from cepnb.profiles import PROFILE_NAMES, profile_name

PROFILE_HELP = f"{', '.join(PROFILE_NAMES)} (default: $CEPNB_PROFILE, else laptop)"
ENVIRONMENT_HELP = "such as maze2d-umaze, hopper, halfcheetah, walker2d or antmaze-medium-play"
DEVICE_HELP = "device of the networks: cpu (default) or cuda"
PEER_HELP = "checkout of the paper's public code, timed as well"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit status: 0 done, 2 bad input or a failed write or run, 130 interrupted.

    Without `arguments`, those of this process: its output then replaces characters that its encoding lacks.
    """
    if arguments is None and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    options = _parser().parse_args(arguments)
    return exit_status("cepnb", lambda: options.command(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cepnb", description="Contrastive energy prediction and QGPO."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable, text: str) -> Callable:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(command=run)
        added.register("action", None, Once)
        return added.add_argument

    add = command("qgpo", _qgpo, "train and evaluate QGPO on an offline dataset")
    add("--dataset", required=True, help="local/…, d4rl/…, minari/… or a D4RL HDF5 file")
    add("--environment", help=f"{ENVIRONMENT_HELP} (default: by the dataset's name)")
    add("--profile", help=PROFILE_HELP)
    add("--seed", type=int, default=0, help="seed of training and evaluation (default 0)")
    add("--out", type=_path, required=True, help="folder of the run; an unfinished run resumes")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="change one setting")
    add("--device", default="cpu", help=DEVICE_HELP)
    add("--no-evaluation", action="store_true", help="train only; no simulator is needed")

    add = command("evaluate", _evaluate, "evaluate a trained run in an environment")
    add("run", type=Path, metavar="RUN", help="folder of the run")
    add("--environment", required=True, help=ENVIRONMENT_HELP)
    add("--device", default="cpu", help=DEVICE_HELP)

    add = command("export", _export, "write a run's policy to one file, for load_policy")
    add("run", type=Path, metavar="RUN", help="folder of the run")
    add("file", type=Path, metavar="FILE", help="file to write")

    add = command("sweep", _sweep, "run QGPO for many tasks, seeds and options in parallel")
    add("config", type=Path, metavar="CONFIG", help="TOML file, see docs/options.md")
    add("--out", type=_path, help="folder of runs and tables, resumed (default: runs/NAME)")
    add("--workers", type=int, default=os.cpu_count() or 1, help="parallel runs (default: cores)")
    add("--cluster", metavar="ADDRESS", help="Dask scheduler that runs the jobs, tcp://HOST:PORT")
    add("--device", default="cpu", help=f"{DEVICE_HELP}, shared by all workers")

    add = command("report", _report, "print tables of a sweep's or of finished runs' scores")
    add("scores", nargs="+", type=Path, metavar="PATH", help="folder, scores.csv or metrics.json")

    add = command("toy", _toy, "train a method on a toy density and compare with the exact answer")
    add("--table", action="store_true", help="all densities, β and methods: table.md, samples.png")
    add("--density", help="8gaussians, swissroll, moons, rings, checkerboard or 2spirals")
    add("--method", action="append", help="such as cep_self, mse or dps; --table takes several")
    add("--beta", type=float, help="inverse temperature β > 0")
    add("--seed", type=int, action="append", help="seed (default 0); --table takes several")
    add("--scale", type=float, default=1.0, help="guidance scale s (default 1, which is exact)")
    add("--profile", help=PROFILE_HELP)
    add("--out", type=_path, help="folder of networks and records, resumed (default: in the cache)")
    add("--json", action="store_true", help="print the record as JSON")

    add = command("data", _data, "generate a local dataset at first use and print its path")
    add("--dataset", required=True, help="local/maze2d-umaze, local/hopper-medium and others")
    add("--profile", help=PROFILE_HELP)

    add = command("agent", _agent, "train the agents that generate local locomotion data")
    add("--environment", required=True, help="hopper, halfcheetah or walker2d")
    add("--steps", type=int, help="environment steps (default: as for the packaged agents)")
    add("--seed", type=int, default=0, help="seed of training (default 0)")
    add("--out", type=_path, required=True, help="folder of NAME.safetensors and checkpoints")

    add = command("bench", _bench, "time the package against the machine's limits")
    add("--peer", type=Path, metavar="PATH", help=PEER_HELP)
    add("--growth", action="store_true", help="time and memory as sizes grow")
    add("--toys", action="store_true", help="training time until toy samples are good")
    add("--full", action="store_true", help="with --growth: also datasets of 10,000,000 rows")
    add("--rows", nargs="+", default=[], metavar="NAME", help="only these rows of the table")
    add("--repeats", type=int, help="repetitions (default 7); with --toys, seeds (default 1)")
    add("--json", action="store_true", help="print the record as JSON")

    add = command("bench-run", _bench_run, "time the paper's whole training of one task on a GPU")
    add("--device", default="cuda", help="cuda (default) or cpu")
    add("--fraction", type=float, default=1.0, help="run this part of each step and extrapolate")
    add("--dataset", help="dataset (default: random numbers of halfcheetah's size)")
    add("--peer", type=Path, metavar="PATH", help=PEER_HELP)
    add("--eager", dest="capture", action="store_false", help="do not replay steps as CUDA graphs")
    add("--compile", dest="compiled", action="store_true", help="compile the networks")
    add("--tf32", action="store_true", help="allow TensorFloat-32 matrix products")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="change one setting")
    add("--out", type=_path, help="folder of bench_run.json and bench_run.md")
    add("--json", action="store_true", help="print the record as JSON")
    return parser


def _qgpo(options: argparse.Namespace) -> None:
    from cepnb.datasets.registry import check_used, environment_of, evaluated_in, load_task
    from cepnb.diffusion.devices import device_named
    from cepnb.envs.registry import ENVIRONMENTS
    from cepnb.experiments.report import scores_text
    from cepnb.qgpo.pipeline import check_evaluation, run_qgpo
    from cepnb.qgpo.settings import qgpo_settings
    from cepnb.storage.files import check_writable
    from cepnb.storage.validation import check_seed

    profile, environment = profile_name(options.profile), options.environment
    if not options.no_evaluation:
        environment = evaluated_in(options.dataset, environment)
    elif environment is None and environment_of(options.dataset) in ENVIRONMENTS:
        environment = environment_of(options.dataset)
    changes = _changes(options.set)
    check_used(options.dataset, changes)
    settings = qgpo_settings(profile, environment, **changes)
    check_seed(options.seed)
    device = device_named(options.device)
    if not (options.out / "metrics.json").exists():  # before a dataset is downloaded or made
        check_writable(options.out / "settings.json")
        if not options.no_evaluation:
            check_evaluation(environment)
    dataset = load_task(options.dataset, environment, settings.transitions, settings.data_seed)
    if environment is None:
        print("no --environment: training with the settings of maze2d, changed by --set")
    task = dataset, environment, settings, profile, options.seed, options.out
    metrics = run_qgpo(*task, device=device, evaluation=not options.no_evaluation)
    if options.no_evaluation:
        arguments = f"{options.out} --environment {environment or 'NAME'}"
        print(f"trained; evaluate it with: python -m cepnb evaluate {arguments}")
        return
    print(scores_text(metrics["scores"]))
    seconds = sum(metrics["seconds"].values())
    print(f"\n{seconds:.0f} s; all numbers are in {options.out / 'metrics.json'}")


def _evaluate(options: argparse.Namespace) -> None:
    from cepnb.diffusion.devices import device_named
    from cepnb.experiments.report import scores_text
    from cepnb.qgpo.pipeline import evaluate_run

    device = device_named(options.device)
    metrics = evaluate_run(options.run, options.environment, device=device)
    print(scores_text(metrics["scores"]))


def _export(options: argparse.Namespace) -> None:
    from cepnb.qgpo.pretrained import export_policy

    export_policy(options.run, options.file)
    print(options.file)


def _sweep(options: argparse.Namespace) -> None:
    from cepnb.diffusion.devices import device_named
    from cepnb.experiments.report import report
    from cepnb.experiments.scores import summed_up
    from cepnb.experiments.sweep import run_sweep
    from cepnb.experiments.sweep_file import read_sweep
    from cepnb.notebook.score_plots import sweep_figure

    if options.workers < 1:
        raise CepnbError(f"--workers {options.workers}: use at least 1")
    sweep = read_sweep(options.config)
    folder = options.out or Path("runs") / options.config.stem
    if options.cluster is None:
        device_named(options.device)
    files = _checked_files(folder, "table.md", "scores.png")
    rows, failures = run_sweep(sweep, folder, options.workers, options.device, options.cluster)
    if rows:
        _write_results(files, report(rows), sweep_figure(summed_up(rows)))
    if failures:
        reasons = "; ".join(f"{job.folder}: {reason}" for job, reason in failures)
        raise CepnbError(f"{len(failures)} runs failed, all others are saved ({reasons})")


def _report(options: argparse.Namespace) -> None:
    from cepnb.experiments.report import report
    from cepnb.experiments.scores import load_scores

    print(report(load_scores(options.scores)))


def _toy(options: argparse.Namespace) -> None:
    from cepnb.densities.benchmark import record
    from cepnb.densities.methods import Models
    from cepnb.densities.names import METHODS, exact_text
    from cepnb.storage.files import cache_dir, check_writable
    from cepnb.storage.validation import check_seed

    profile = profile_name(options.profile)
    folder, seeds = options.out or cache_dir() / "toys" / profile, options.seed or [0]
    for seed in seeds:
        check_seed(seed)
    _refuse_repeats("--seed", seeds)
    _refuse_repeats("--method", options.method or [])
    for method in options.method or []:
        if method not in METHODS:
            raise CepnbError(f"method '{method}': use one of {', '.join(METHODS)}")
    check_writable(folder / "table.md")
    if options.table:
        methods = options.method or list(METHODS)
        return _toy_table(profile, seeds, folder, methods)
    for name in ("density", "method", "beta"):
        if getattr(options, name) is None:
            raise CepnbError(f"--{name} is missing; name it, or use --table")
    for name, values in (("seed", seeds), ("method", options.method)):
        if len(values) > 1:
            raise CepnbError(f"--{name} {values[1]}: more than one {name}; use --table")
    models = Models(options.density, profile, seeds[0], folder, progress=not options.json)
    found = record(models, options.method[0], options.beta, options.scale)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        for key, value in found.items():
            if isinstance(value, float):
                value = exact_text(value) if key in ("beta", "scale") else f"{value:.4g}"
            print(f"{key:<26}{value}")


def _toy_table(profile: str, seeds: list[int], folder: Path, methods: list[str]) -> None:
    from cepnb.densities import benchmark
    from cepnb.notebook.plots import sample_grid

    files = _checked_files(folder, "table.md", "samples.png")
    records = benchmark.table(profile, seeds, folder, methods)
    tables = [f"{key}\n\n{benchmark.records_table(records, key)}" for key in benchmark.SHOWN]
    figure = None
    if not files[1].exists():
        figure = sample_grid(benchmark.samples(profile, seeds[0], folder))
    _write_results(files, "\n\n".join(tables), figure)


def _checked_files(folder: Path, *names: str) -> list[Path]:
    """Return the paths of a command's results; raise `CepnbError` if one cannot be written."""
    from cepnb.storage.files import check_writable

    for name in names:
        check_writable(folder / name)
    return [folder / name for name in names]


def _write_results(files: list[Path], tables: str, figure) -> None:
    """Write the tables and, unless it is None, a figure; print the tables and the paths."""
    from cepnb.storage.files import atomic_path, write_text

    table, picture = files
    write_text(table, tables + "\n")
    if figure:
        with atomic_path(picture) as path:
            figure.savefig(path, format="png", dpi=110)
    print(f"{tables}\n\nTables: {table}; figure: {picture}")


def _data(options: argparse.Namespace) -> None:
    from cepnb.datasets.local import local_dataset
    from cepnb.qgpo.settings import qgpo_settings

    settings = qgpo_settings(options.profile)
    print(local_dataset(options.dataset, settings.transitions, settings.data_seed))


def _agent(options: argparse.Namespace) -> None:
    from cepnb.datasets.sac import make_history
    from cepnb.storage.files import check_writable
    from cepnb.storage.validation import check_seed

    check_seed(options.seed)
    check_writable(options.out / "checkpoint")
    print(make_history(options.environment, options.steps, options.seed, options.out))


def _bench(options: argparse.Namespace) -> None:
    if options.growth and (options.peer or options.toys):
        other = "--peer" if options.peer else "--toys"
        raise CepnbError(f"{other} cannot be combined with --growth")
    if options.full and not options.growth:
        raise CepnbError("--full needs --growth")
    counts = {"repeats": options.repeats} if options.repeats is not None else {}
    if options.growth:
        from cepnb.tools.bench.growth import growth, growth_markdown

        record, markdown = growth(options.rows, full=options.full, **counts), growth_markdown
    elif options.toys:
        from cepnb.tools.bench.quality import quality, quality_markdown

        record, markdown = quality(options.rows, peer=options.peer, **counts), quality_markdown
    else:
        from cepnb.tools.bench.rows import measured, rows_markdown

        record, markdown = measured(options.rows, peer=options.peer, **counts), rows_markdown
    print(json.dumps(record, indent=2) if options.json else markdown(record))


def _bench_run(options: argparse.Namespace) -> None:
    from cepnb.datasets.registry import load_dataset
    from cepnb.qgpo.settings import qgpo_settings
    from cepnb.storage.files import write_json, write_text
    from cepnb.tools.bench.options import BenchConfig, check_checkout
    from cepnb.tools.bench.whole import whole_markdown, whole_run

    settings = qgpo_settings("paper", **_changes(options.set))
    if options.peer:
        check_checkout(options.peer)  # before the dataset is made or downloaded
    config = BenchConfig(
        **{field.name: getattr(options, field.name) for field in fields(BenchConfig)}
    )
    files = None
    if options.out:
        files = _checked_files(options.out, "bench_run.json", "bench_run.md")
    dataset = None
    if options.dataset:
        dataset = load_dataset(options.dataset, settings.transitions, settings.data_seed)
    record = whole_run(settings, config, dataset, options.peer)
    if files:
        write_json(files[0], record)
        write_text(files[1], whole_markdown(record) + "\n")
    print(json.dumps(record, indent=2) if options.json else whole_markdown(record))


def _path(text: str) -> Path:
    """Convert an option to a path; an empty one, as of an unset variable, is an error."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def _refuse_repeats(option: str, values: list) -> None:
    for value in values:
        if values.count(value) > 1:
            raise CepnbError(f"{option} {value}: given {values.count(value)} times; give it once")


def _changes(assignments: list[str]) -> dict[str, object]:
    """Convert --set options to settings. A value is a Python literal; other text is a string."""
    from cepnb.qgpo.settings import coerce

    _refuse_repeats("--set", [assignment.partition("=")[0] for assignment in assignments])
    changes = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise CepnbError(f"--set {assignment}: the value is missing; use NAME=VALUE")
        try:
            changes[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            changes[name] = text
    return coerce(changes)
