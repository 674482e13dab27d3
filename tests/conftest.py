"""Set-up of all tests: shapes checked while they run, one thread a process, and a data cache of their own."""

import os

from jaxtyping import install_import_hook

# Before cepnb is imported anywhere: every annotated shape of the package is checked by beartype in the tests.
install_import_hook("cepnb", "beartype.beartype")

import hypothesis  # noqa: E402
import matplotlib  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

matplotlib.use("Agg")
torch.set_num_threads(1)
# Examples repeat from run to run; the first call of a function is slow, which says nothing about it.
hypothesis.settings.register_profile("cepnb", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("cepnb")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One cache of generated data for the whole test run, shared by its processes and apart from the user's."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    os.environ["CEPNB_CACHE"] = str(shared / "cepnb-cache")
