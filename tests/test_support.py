"""The support set on disk: whole or gone on with to the same bits, mapped and never in memory, and small where asked."""

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from killing import kills_until_done
from torch import Tensor

from cepnb.diffusion.networks import EpsNet
from cepnb.diffusion.schedule import VPSchedule, expand_as
from cepnb.diffusion.training import initialised, seeded
from cepnb.errors import CepnbError
from cepnb.experiments.step_reuse import reuse_steps
from cepnb.qgpo import support
from cepnb.qgpo.critic import support_values, train_critic
from cepnb.qgpo.energy import train_energy
from cepnb.qgpo.joint import train_joint
from cepnb.qgpo.policy import sample_actions
from cepnb.qgpo.settings import LATER, Settings, qgpo_settings
from cepnb.qgpo.support import sample_support
from cepnb.qgpo.transitions import Transitions
from cepnb.storage.arrays import mapped_tensor, write_pieces
from cepnb.storage.files import load_tensors, read_json, save_tensors, write_json
from cepnb.storage.runs import Run

SCHEDULE, K, DIM = VPSchedule(), 4, 2
CHOSEN = qgpo_settings(
    "ci", K=K, energy_K=K, energy_states=0, q_steps=30, energy_steps=30, sampler_steps=3
)
linux = pytest.mark.skipif(
    sys.platform != "linux", reason="limits of memory and sparse files as Linux has them"
)


def eps() -> EpsNet:
    return initialised(
        0, "support test", lambda: EpsNet(DIM, 3, (16, 8), embedding=8, schedule=SCHEDULE)
    ).requires_grad_(False)


def states(n: int = 50) -> Tensor:
    return torch.randn(n, 3, generator=seeded(0, "support states"))


def sampled(path: Path | None, **changes: object) -> Tensor:
    return sample_support(
        eps(), states(), K, replace(CHOSEN, **changes), SCHEDULE, 0, path, progress=False
    )


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        support, "CHUNK", 8 * K
    )  # 50 states are seven chunks, the last of two states


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_a_set_on_disk_is_the_set_in_memory(
    tmp_path: Path, small_chunks: None, storage: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mapped = sampled(tmp_path / "set.safetensors", support_storage=storage)
    kept = sampled(None, support_storage=storage)
    assert mapped.dtype == kept.dtype == getattr(torch, storage) and torch.equal(mapped, kept)
    assert torch.equal(
        load_tensors(tmp_path / "set.safetensors")[0]["actions"], kept
    )  # the format is the library's
    save_tensors(
        tmp_path / "theirs.safetensors", {"other": torch.arange(5), "actions": kept}, {"note": "x"}
    )
    assert torch.equal(
        mapped_tensor(tmp_path / "theirs.safetensors", "actions"), kept
    )  # and theirs can be mapped
    assert {path.name for path in tmp_path.iterdir()} == {"set.safetensors", "theirs.safetensors"}


def _sample_until_killed(path: Path, writes: int) -> None:
    """Die by SIGKILL in the middle of piece number `writes`, when half of it is in the file."""
    torch.set_num_threads(1)
    sync, count = os.fsync, 0
    support.CHUNK = 8 * K

    def fsync(file: int) -> None:
        nonlocal count
        count += 1
        if count == writes:
            os.ftruncate(file, os.fstat(file).st_size - 8 * K * DIM * 4 // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        sync(file)

    os.fsync = fsync
    sampled(path)


def test_killed_again_and_again_it_ends_with_the_same_bytes(
    tmp_path: Path, small_chunks: None
) -> None:
    sampled(tmp_path / "unbroken.safetensors")
    path = tmp_path / "killed.safetensors"

    def begun_and_not_ended() -> None:
        assert not path.exists() and path.with_suffix(".begun").exists()

    kills = kills_until_done(_sample_until_killed, (path, 4), 5, begun_and_not_ended)
    assert kills >= 2 and path.read_bytes() == (tmp_path / "unbroken.safetensors").read_bytes()
    assert not path.with_suffix(".begun").exists()


@pytest.mark.parametrize("pieces, left", [(0, -8), (0, 0), (3, 0), (3, 5), (7, 0)])
def test_after_a_power_cut_the_last_piece_is_not_trusted(
    tmp_path: Path, small_chunks: None, monkeypatch: pytest.MonkeyPatch, pieces: int, left: int
) -> None:
    """So many pieces and some bytes are in the file; the last of them is of zeros, as a file system may leave it."""
    path, piece, made = tmp_path / "set.safetensors", 8 * K * DIM * 4, []
    sampled(path)
    whole = path.read_bytes()
    header = len(whole) - 50 * K * DIM * 4
    path.unlink()
    begun = whole[: header + pieces * piece + left]
    path.with_suffix(".begun").write_bytes(
        begun[: -piece - left] + bytes(piece + left) if pieces else begun
    )
    monkeypatch.setattr(
        support, "sample_actions", lambda *a: made.append(len(a[1])) or sample_actions(*a)
    )
    sampled(path)
    assert path.read_bytes() == whole
    assert len(made) == 7 - max(
        0, pieces - 1 - (pieces == 7)
    )  # of seven, the last is shorter and never counts as whole


def transitions(n: int = 50) -> Transitions:
    g = seeded(0, "support data")
    return Transitions(
        states=states(n),
        actions=2 * torch.rand(n, DIM, generator=g) - 1,
        rewards=torch.randn(n, generator=g),
        terminals=torch.zeros(n, dtype=torch.bool),
        next_row=torch.arange(n).roll(-1),
        distinct=states(n),
    )


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_training_on_a_mapped_set_gives_the_same_numbers(
    tmp_path: Path, small_chunks: None, storage: str
) -> None:
    """Of float16 the rounded set in float32 is the measure: all is computed in float32, whatever is stored."""
    data, chosen = transitions(), replace(CHOSEN, training="joint", guidance=("cep",))
    mapped = sampled(tmp_path / "set.safetensors", support_storage=storage)
    found, expected = [], []
    for actions, results in ((mapped, found), (sampled(None).to(mapped.dtype).float(), expected)):
        q = train_critic(data, actions, CHOSEN, 0, progress=False)
        values = support_values(q, data.distinct, actions)
        assert values.dtype == torch.float32
        nets = (
            q,
            train_energy(
                "cep", data.distinct, actions, values, CHOSEN, SCHEDULE, 0, progress=False
            ),
            train_joint(data, actions, data.distinct, actions, chosen, SCHEDULE, 0, progress=False),
        )
        results += [values, *(p for net in nets for p in net.state_dict().values())]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_float16_moves_actions_by_far_less_than_the_solver_does() -> None:
    """A behaviour of two narrow modes, whose means follow the state, with its ε exact; the solver is held against 300 evaluations."""

    def modes(at: Tensor, t: Tensor, state: Tensor) -> Tensor:
        alpha, sigma = (expand_as(c, at) for c in (SCHEDULE.alpha(t), SCHEDULE.sigma(t)))
        variance = alpha**2 * 0.05**2 + sigma**2
        offsets = torch.stack(
            [at - alpha * (0.3 * state[..., :DIM].tanh() + sign * 0.4) for sign in (-1, 1)]
        )
        weights = (-0.5 * (offsets**2).sum(-1, keepdim=True) / variance).softmax(0)
        return sigma / variance * (weights * offsets).sum(0)

    usual, exact = (
        sample_actions(
            modes,
            states(500),
            DIM,
            replace(CHOSEN, sampler_steps=steps),
            SCHEDULE,
            seeded(0, "modes"),
            K,
        )
        for steps in (15, 300)
    )
    rounding, error = usual.half().float() - usual, (usual - exact).square().mean().sqrt()
    deviation = rounding.square().mean().sqrt()
    print(f"solver {error:.1e}, rounding {deviation:.1e}, at most {rounding.abs().max():.1e}")
    assert 0 < rounding.abs().max() <= 2**-12  # half a unit of the eleventh bit of what is below 1
    assert deviation < error / 20


# A process that may have 64 MB more of its own than it has when torch is there: a whole set does not go into it.
LIMITED = """
import resource, sys
from pathlib import Path
import torch
from cepnb.storage.files import load_tensors
from cepnb.storage.arrays import mapped_tensor, write_pieces
from cepnb.diffusion.training import draw, seeded
path, rows, room = Path(sys.argv[1]), int(sys.argv[2]), 2**26
torch.ones(100, 100) @ torch.ones(100, 100)
draw(seeded(0, "first"), 10, torch.ones(10, 3).half())
own = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData:")) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (own + room, own + room))
"""
LIMITED_WRITE = (
    LIMITED
    + """
piece = torch.ones(2**13, 16)
write_pieces(path, "actions", (rows, 16), torch.float32, 2**13, lambda first: (piece for _ in range(first, rows // 2**13)))
"""
)
LIMITED_DRAWS = (
    LIMITED
    + """
actions, generator = mapped_tensor(path, "actions"), seeded(0, "draws")
for _ in range(200):
    (batch,) = draw(generator, 256, actions)
assert batch.dtype == torch.float32 and len(actions) == rows
try:
    load_tensors(path)[0]["actions"].clone()
except Exception as error:
    print(type(error).__name__)
"""
)


def limited(script: str, path: Path, rows: int) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), str(rows)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@linux
def test_a_set_of_hundreds_of_megabytes_is_written_and_drawn_from_in_64(tmp_path: Path) -> None:
    path, rows = tmp_path / "set.safetensors", 6 * 2**20
    limited(LIMITED_WRITE, path, rows)
    assert path.stat().st_size > 2**28 + 2**27
    assert limited(LIMITED_DRAWS, path, rows) in (
        "CepnbError",
        "RuntimeError",
        "MemoryError",
    )  # what a whole set ends in


@linux
def test_a_set_may_be_larger_than_the_memory_of_the_machine(tmp_path: Path) -> None:
    """A file of twice the memory that there is, of which nothing but the first piece was ever written."""
    path, row = tmp_path / "set.safetensors", 2 * K * DIM
    rows = 2 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // row
    shape = (rows, K, DIM)

    def first_and_last(first: int) -> Iterator[Tensor]:
        yield torch.ones(5, K, DIM)
        os.truncate(
            path.with_suffix(".begun"), path.with_suffix(".begun").stat().st_size + (rows - 5) * row
        )

    try:
        write_pieces(path, "actions", shape, torch.float16, 5, first_and_last)
    except CepnbError as error:
        pytest.skip(f"no file of that size here: {error}")
    actions = mapped_tensor(path, "actions")
    assert (
        actions.shape == shape
        and actions[:5].sum() == 5 * K * DIM
        and actions[torch.tensor([rows // 2, rows - 1])].sum() == 0
    )
    path.unlink()


def test_what_cannot_be_mapped_or_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "torn").write_bytes(b"1234")
    save_tensors(tmp_path / "whole", {"actions": torch.arange(3)})
    (tmp_path / "set.begun").write_bytes(b"something else, and longer than a header")

    def write(pieces: int, path: str = "set.safetensors") -> None:
        write_pieces(
            tmp_path / path,
            "actions",
            (3, 2),
            torch.float32,
            1,
            lambda first: iter([torch.zeros(1, 2)] * pieces),
        )

    for work, reason in [
        (
            lambda: mapped_tensor(tmp_path / "none", "actions"),
            "none: expected a whole safetensors file",
        ),
        (
            lambda: mapped_tensor(tmp_path / "torn", "actions"),
            "torn: expected a whole safetensors file",
        ),
        (
            lambda: mapped_tensor(tmp_path / "whole", "states"),
            "whole: has actions, expected 'states'",
        ),
        (
            lambda: mapped_tensor(tmp_path / "whole", "actions"),
            "whole: 'actions' is of type I64, expected one of F32, F16",
        ),
        (
            lambda: write(3),
            r"set.begun: another tensor was begun here, expected actions of shape \(3, 2\); remove it",
        ),
        (
            lambda: write(2, "short.safetensors"),
            r"short.begun: has \d+ bytes, expected \d+ for actions of shape \(3, 2\); remove it",
        ),
        (lambda: write(3, "torn/set.safetensors"), "set.safetensors: could not be written"),
    ]:
        with pytest.raises(CepnbError, match=reason) as caught:
            work()
        assert "\n" not in str(caught.value)


def test_results_from_before_a_setting_go_on_as_they_were(tmp_path: Path) -> None:
    chosen = qgpo_settings("ci")
    configuration = {"dataset": "d", "rows": 1, "seed": 0, "settings": vars(chosen)}
    older = configuration | {
        "settings": {name: value for name, value in vars(chosen).items() if name not in LATER}
    }
    write_json(tmp_path / "old/settings.json", older)
    old = Run(tmp_path / "old", configuration)
    with pytest.raises(
        CepnbError, match="made with support_storage float32, now float16; use another folder"
    ):
        Run(
            tmp_path / "old",
            configuration | {"settings": vars(replace(chosen, support_storage="float16"))},
        )
    save_tensors(old.folder / "support.safetensors", {"actions": torch.zeros(1)})
    assert reuse_steps(Run(tmp_path / "new", configuration), chosen, [old.folder]) == ["support"]
    assert read_json(tmp_path / "old/settings.json") == json.loads(json.dumps(older))
    assert all(value == getattr(Settings(), name) for name, value in LATER.items())
