"""The command line: `python -m cepnb COMMAND`. Bad input ends in one line on standard error and exit status 2."""

import argparse
import ast
import sys
from pathlib import Path

from cepnb.errors import CepnbError
from cepnb.profiles import PROFILES, Settings, profile_name, settings


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 2 bad input or a failed write, 130 interrupted."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except CepnbError as error:
        print(f"cepnb: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cepnb: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cepnb", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    qgpo = commands.add_parser("qgpo", help="train and evaluate QGPO on an offline dataset, all five steps")
    qgpo.add_argument("--dataset", required=True, help="local/maze2d-umaze and the like, or a path to a D4RL HDF5 file")
    qgpo.add_argument("--environment", help="maze2d-umaze, -medium or -large: where a dataset given by path is evaluated")
    qgpo.add_argument("--profile", help=f"{', '.join(PROFILES)} (default: $CEPNB_PROFILE, else laptop)")
    qgpo.add_argument("--seed", type=int, default=0, help="seed of training and evaluation (the data has its own)")
    qgpo.add_argument("--out", type=Path, required=True, help="folder for models and metrics.json; resumed if begun")
    qgpo.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change one setting")
    qgpo.set_defaults(command=_qgpo)

    table = commands.add_parser("scores", help="the scores of finished runs in one table, as mean over their seeds")
    table.add_argument("runs", nargs="+", type=Path, metavar="DIR", help="folders of finished runs, or their metrics.json")
    table.set_defaults(command=_scores)

    data = commands.add_parser("data", help="make a local dataset (at first use) and print where it is")
    data.add_argument("--dataset", required=True, help="local/maze2d-umaze, -medium or -large, or with -noisy behind it")
    data.add_argument("--profile", help="whose number of transitions to make (default: $CEPNB_PROFILE, else laptop)")
    data.set_defaults(command=_data)
    return parser


def _qgpo(options: argparse.Namespace) -> None:
    from cepnb.offline.data import load_dataset
    from cepnb.offline.maze import LAYOUTS, maze_of
    from cepnb.offline.pipeline import run_qgpo, score_table

    profile = profile_name(options.profile)
    chosen = settings(profile, **dict(_assignment(text) for text in options.set))
    if not 0 <= options.seed < 2**31:
        raise CepnbError(f"seed {options.seed}: expected an integer from 0 to 2147483647")
    if not (options.environment or options.dataset.startswith("local/")):
        raise CepnbError(f"--dataset {options.dataset}: expected --environment with the path of a file")
    environment = options.environment or options.dataset.removeprefix("local/").removesuffix("-noisy")
    dataset = load_dataset(options.dataset, chosen.transitions, chosen.data_seed, LAYOUTS[maze_of(environment)].max_steps)
    metrics = run_qgpo(dataset, environment, chosen, profile, options.seed, options.out)
    print(score_table(metrics["scores"]))
    print(f"\n{sum(metrics['seconds'].values()):.0f} s; all numbers are in {options.out / 'metrics.json'}")


def _scores(options: argparse.Namespace) -> None:
    from cepnb.offline.report import load_runs, summary_table

    print(summary_table(load_runs(options.runs)))


def _data(options: argparse.Namespace) -> None:
    from cepnb.offline.collect import local_dataset

    chosen = settings(options.profile)
    print(local_dataset(options.dataset, chosen.transitions, chosen.data_seed))


def _assignment(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    try:
        parsed = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        parsed = None
    kinds = {field: type(default) for field, default in vars(Settings()).items()}
    kind = kinds.get(name)
    if not equals or (kind is not None and not (isinstance(parsed, kind) or (kind is float and type(parsed) is int))):
        raise CepnbError(f"--set {text}: expected NAME=VALUE" + (f" with a {kind.__name__}" if kind else ""))
    return name, float(parsed) if kind is float else parsed
