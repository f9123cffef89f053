"""What is said and sent before any node is asked: addresses, plans, differences between nodes, and images in a file."""

from __future__ import annotations

import importlib
import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from problems import blobs

from astdistill.autodiff.dispatch import computing, engine_here, on_cluster
from astdistill.cli.main import main
from astdistill.data.dataset import Dataset
from astdistill.data.loading import load_dataset
from astdistill.runtime.cluster import Cluster, ClusterPickler, Site, differences, facts, imported, used
from astdistill.runtime.errors import InputError
from astdistill.runtime.parallel import WorkerPlan, plan_workers
from astdistill.runtime.worker import TensorUnpickler, nameless_file

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("ray://node1:10001", "run the command on the cluster: ray job submit --address"),
        ("node1", "--cluster node1 was given; write auto, or HOST:PORT of the head node"),
        ("", "write auto, or HOST:PORT"),
    ],
)
def test_other_addresses_are_refused(address: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Cluster(address)


def test_the_command_line_refuses_them_before_anything_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["run", "digits-ipc1"], ["experts", "digits-ipc1"], ["evaluate", "nothing"], ["doctor"]):
        code = main([*words, "--cluster", "ray://node1:10001"])
        told = capsys.readouterr()
        assert code == (words[0] == "doctor") + 2 * (words[0] != "doctor")
        assert "ray job submit" in " ".join((told.out + told.err).split())


def test_without_ray_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named '{name}'")

    monkeypatch.setattr(importlib, "import_module", missing)
    for name in ("RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED", "RAY_grpc_client_keepalive_time_ms"):
        monkeypatch.setenv(name, "0")
    with pytest.raises(InputError, match=r"No module named 'ray'.*run: pip install 'astdistill\[cluster\]'"):
        imported()


def test_jobs_on_a_cluster_have_its_threads_wherever_the_data_lie() -> None:
    assert used() is None
    with on_cluster("auto"):
        assert plan_workers(100, None, CPU) == plan_workers(100, None, CUDA) == WorkerPlan(100, 1, requested=True)
        with computing(threads=4), on_cluster(None):
            assert plan_workers(3, None, CPU) == WorkerPlan(3, 1, requested=True), "the driver's threads are its own"
    with computing(threads=2, cluster="node1:6379"):
        assert plan_workers(3, None, CPU) == WorkerPlan(3, 2, requested=True)
    assert used() is None


def test_what_a_cluster_cannot_do_is_said() -> None:
    with on_cluster("auto"):
        with pytest.raises(InputError, match=r"2 workers were asked for, and a cluster, .* leave --workers out"):
            plan_workers(4, 2, CPU)
        with pytest.raises(InputError, match=r"'__main__:net' is defined in the script itself.* put it into a module"):
            plan_workers(4, None, CPU, ["__main__:net"])


def test_a_node_takes_as_many_jobs_as_its_cores_and_its_gpus_allow() -> None:
    node = Site("ab" * 28, "host", "10.0.0.1", {"CPU": 5.0, "GPU": 1.0})
    assert [node.places(threads, gpu=False) for threads in (1, 2, 6)] == [5, 2, 0]
    assert node.places(2, gpu=True) == 1
    assert str(node) == "host (10.0.0.1, node abababab)"


def test_what_decides_bits_is_compared_and_nothing_else() -> None:
    here = facts(lambda: engine_here("eager"))
    assert here["engine"] == "eager"
    assert {"torch", "instruction set", "code"} <= here.keys()
    assert differences(here | {"host": "other", "cores": "64", "compiler": "clang"}, here) == ""
    assert differences(here | {"torch": "2.0"}, here) == f"torch 2.0 (here {here['torch']})"
    assert differences({}, {"numpy": "2"}) == "numpy none (here 2)"


def test_a_job_sees_one_gpu_whichever_the_driver_has() -> None:
    text = io.BytesIO()
    with nameless_file() as memory:
        ClusterPickler(text, memory).dump([torch.device("cuda", 3), CPU])
    assert pickle.loads(text.getvalue()) == [torch.device("cuda", 0), CPU]


def sent(dataset: Dataset) -> tuple[bytes, np.ndarray]:
    """What goes to another node."""
    text = io.BytesIO()
    with nameless_file() as memory:
        ClusterPickler(text, memory).dump(dataset)
        memory.seek(0)
        return text.getvalue(), np.frombuffer(memory.read(), dtype=np.uint8)


def arrived(words: tuple[bytes, np.ndarray]) -> Dataset:
    return TensorUnpickler(io.BytesIO(words[0]), words[1]).load()


def test_tensors_arrive_to_the_bit(tmp_path: Path) -> None:
    dataset = blobs()
    found = arrived(sent(dataset))
    assert torch.equal(found.train.whole(), dataset.train.whole())
    assert found.train.whole().data_ptr() % 4 == 0


def arrays(path: Path, seed: int) -> None:
    drawn = np.random.default_rng(seed)
    labels = np.arange(3).repeat(8)
    pictures = {part: drawn.integers(0, 256, (24, 8, 8, 3), dtype=np.uint8) for part in ("train", "test")}
    np.savez(
        path, train_images=pictures["train"], train_labels=labels, test_images=pictures["test"], test_labels=labels
    )


def test_images_in_a_file_are_read_again_on_a_node_with_another_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = tmp_path / "pictures.npz"
    arrays(source, seed=1)
    monkeypatch.setenv("ASTDISTILL_CACHE", str(tmp_path / "one"))
    dataset = load_dataset(source, memory="disk", validation=0.25)
    expected = dataset.train.whole(), dataset.test.whole()
    words = sent(dataset)
    (tmp_path / "one").rename(tmp_path / "gone")
    monkeypatch.setenv("ASTDISTILL_CACHE", str(tmp_path / "two"))
    found = arrived(words)
    assert torch.equal(found.train.whole(), expected[0])
    assert torch.equal(found.test.whole(), expected[1])
    assert found.train.images.path.is_relative_to(tmp_path / "two")  # pyright: ignore[reportAttributeAccessIssue]


def test_other_images_on_a_node_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = tmp_path / "pictures.npz"
    arrays(source, seed=2)
    monkeypatch.setenv("ASTDISTILL_CACHE", str(tmp_path / "one"))
    words = sent(load_dataset(source, memory="disk"))
    (tmp_path / "one").rename(tmp_path / "gone")
    arrays(source, seed=3)
    monkeypatch.setenv("ASTDISTILL_CACHE", str(tmp_path / "two"))
    with pytest.raises(InputError, match=r"holds other images on .* than where the command runs \(fingerprints"):
        arrived(words)
    source.unlink()
    with pytest.raises(InputError, match=r"cannot read the data: .* Put .* where all nodes see it, or take --data"):
        arrived(sent_again(words))


def sent_again(words: tuple[bytes, np.ndarray]) -> tuple[bytes, np.ndarray]:
    """For a process that has read none of it yet."""
    from astdistill.data import loading

    loading._reload_dataset.cache_clear()
    return words


def test_ray_is_imported_only_where_it_is_used() -> None:
    words = "import sys, astdistill.cli.main, astdistill.runtime.cluster; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words], check=False).returncode == 0
