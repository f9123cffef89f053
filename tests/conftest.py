"""What every test shares: one thread, so that results do not depend on the machine, a quiet console, and a small
CIFAR-100 on disk."""

from __future__ import annotations

import atexit
import functools
import gc
import itertools
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import forking
import pytest
from desk import RUN, made_in
from folders import write_parquet

# Nothing in the tests may reach for the network; the hub library is told before it is imported.
os.environ["HF_HUB_OFFLINE"] = "1"
# One thread here and in the processes that tests start; read when torch is imported, which the process that only hands
# out the tests never does.
os.environ["OMP_NUM_THREADS"] = "1"

# A cache of this session's own: what the user's has, networks trained on full data for example, would not be trained.
# The processes that run the tests, and those that tests start, inherit it.
if "ASTDISTILL_TESTS_CACHE" not in os.environ:
    os.environ["ASTDISTILL_TESTS_CACHE"] = os.environ["ASTDISTILL_CACHE"] = tempfile.mkdtemp(prefix="astdistill-cache-")
    atexit.register(shutil.rmtree, os.environ["ASTDISTILL_CACHE"], ignore_errors=True)

# A shell that starts the tests in the background has them ignore Ctrl-C, and what the tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

forking.install()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, and so many short ones at the end: no process waits long for another's last file
    (with `--no-loadscope-reorder`, for xdist would begin with the files of most tests)."""
    slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
    items.sort(key=lambda item: item.path not in slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `started_anew` start each process as users do. Those marked `drawn` draw: elsewhere figures are made
    whole and saved as one pixel, also by fixtures and by forked processes, since drawing them is three quarters of a
    small run."""
    forking.start_anew(item.get_closest_marker("started_anew") is not None)
    forking.draw(item.get_closest_marker("drawn") is not None)


def pytest_collection_finish() -> None:
    """Thousands of collected tests stay to the end; the garbage collector need not go through them again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)  # else it looks through what the tests make for a fortieth of their time


NUMBERS = itertools.count()


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of its own. pytest's own fixture lists all folders that there are for each of thousands of tests."""
    name = re.sub(r"\W", "_", request.node.name)[:30]
    folder = tmp_path_factory.getbasetemp() / f"{name}-{next(NUMBERS)}"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Without progress, and with the one thread of a test still there at its end: with two, what follows takes four
    times as long."""
    from astdistill.runtime.progress import be_quiet

    be_quiet(True)
    yield
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)
        pytest.fail("this test leaves torch with another number of threads")


@pytest.fixture(autouse=True)
def _networks_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds networks on full data that another has trained. Only a test that asks for the folder makes it:
    pytest takes milliseconds for each among thousands."""
    monkeypatch.setattr(
        "astdistill.evaluation.cache.cache_folder", functools.cache(lambda: tmp_path_factory.mktemp("networks"))
    )


@pytest.fixture(scope="session")
def cifar_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`cifar100` and `cifar10` in the hub's parquet layout: 52 and 12 random training pictures a class, one to test
    on."""
    root = tmp_path_factory.mktemp("data")
    write_parquet(root / "cifar100", 100, 52, "img", "fine_label")
    write_parquet(root / "cifar10", 10, 12, "img", "label")
    return root


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of three outer steps in `made`, and its expert, for copying."""
    return made_in(tmp_path_factory.mktemp("finished"), *RUN, "--out", "made")


@pytest.fixture
def desk_of_a_run(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of it as the current folder, with a cache of its own."""
    shutil.copytree(finished_run, tmp_path / "desk")
    monkeypatch.chdir(tmp_path / "desk")
    monkeypatch.setenv("ASTDISTILL_CACHE", str(tmp_path / "cache"))
