"""Stores on S3, as moto serves it in this process: requests are counted where they arrive."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import SMALL_RUN, TINY, TINY_RECIPE, blobs, exit_code, same_store, tiny_experts
from safetensors.torch import load_file

from astdistill.experts.recipe import ExpertCurve
from astdistill.experts.store import TrajectoryStore, describe_store
from astdistill.experts.training import train_experts
from astdistill.runtime.errors import InputError
from astdistill.runtime.files import save_tensors
from astdistill.runtime.objects import Objects, Url

pytestmark = [
    pytest.mark.skipif(
        find_spec("moto") is None or find_spec("s3fs") is None,
        reason="moto or s3fs is not installed: pip install 'astdistill[s3]' 'moto[s3,server]'",
    ),
    pytest.mark.filterwarnings("ignore"),
]
ROOT = "s3://bucket/experts"
RUN = [
    *("run", "digits-ipc1", "--experts.count", "2", "--experts.stop-after", "3"),
    *("--method.step.max-start-epoch", "2", "--method.step.syn-steps", "3", "--method.step.expert-epochs", "1"),
    *SMALL_RUN,
]
JOB = """# forked
import torch
from safetensors.torch import load_file
from problems import blobs, TINY, TINY_RECIPE
from astdistill.experts import cloud, training
from astdistill.runtime.progress import be_quiet
torch.set_num_threads(1)
be_quiet(True)
cloud.SAVE_S = 0.0
wait, training.append_line = training.append_line, lambda path, line: (wait(path, line), print(line["epoch"], flush=True))
training.train_experts(blobs(), model=TINY, recipe=TINY_RECIPE.replace(epochs=20), count=1, store="s3://bucket/experts")
"""


@dataclass
class Server:
    """S3 of this process. What it was asked: method, name of the object, bytes that it answered."""

    address: str
    asked: list[tuple[str, str, int]] = field(default_factory=list)

    def post(self, path: str, data: bytes, method: str = "POST") -> None:
        kind = {"Content-Type": "application/octet-stream"}
        urllib.request.urlopen(urllib.request.Request(f"{self.address}/{path}", data, kind, method=method)).close()

    def counting(self, app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
        def counted(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
            def started(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
                size = int(dict(headers).get("Content-Length", 0))
                name = environment["PATH_INFO"].rpartition("/")[2]
                self.asked.append((environment["REQUEST_METHOD"], name, size))
                return start(status, headers, *rest)

            return app(environment, started)

        return counted


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    started = import_module("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    server = Server(f"http://{host}:{port}")
    started._server.app = server.counting(started._server.app)
    yield server
    started.stop()


@pytest.fixture(autouse=True)
def bucket(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """An empty bucket, and the environment in which it is found."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    environment = {
        "AWS_ENDPOINT_URL": server.address,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "ASTDISTILL_CACHE": str(tmp_path / "cache"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    server.post("moto-api/reset", b"")
    server.post("bucket", b"", "PUT")
    server.asked.clear()
    return server


def experts(**words: Any) -> TrajectoryStore:
    return train_experts(blobs(), **{"model": TINY, "recipe": TINY_RECIPE, "count": 2, "store": ROOT} | words)


def test_rows_are_those_of_a_folder(tmp_path: Path, bucket: Server) -> None:
    store = experts()
    assert same_store(store, tiny_experts(tmp_path, blobs()))
    puts = [name for method, name, _ in bucket.asked if method == "PUT"]
    assert puts == [
        *["astdistill.json"] * 2,
        "preprocessing.safetensors",
        "recipe.json",
        "astdistill.json",
        "000.safetensors",
        "001.safetensors",
    ]


def test_a_segment_is_two_requests_at_first_and_then_one_and_few_of_the_bytes(tmp_path: Path, bucket: Server) -> None:
    """51 rows of 100,000 numbers, of which a segment is three."""
    trained = tiny_experts(tmp_path / "small", blobs())
    recipe = TINY_RECIPE.replace(epochs=50)
    identity = trained.identity.replace(recipe=recipe, parameters=100_000)
    folder = tmp_path / identity.digest()
    describe_store(folder, identity, blobs().config, blobs().preprocessing)
    rows = torch.randn(51, 100_000, generator=torch.Generator().manual_seed(0))
    curves = vars(ExpertCurve([1.0] * 50, [2.0] * 50, [3.0] * 50))
    header = {"identity": identity.to_json(), "curves": curves}
    save_tensors(folder / "000.safetensors", {"rows": rows}, header, by_row=["rows"])
    there = Objects(Url(ROOT) / folder.name)
    for file in folder.iterdir():
        there.put(file.name, file.read_bytes())

    store, local = TrajectoryStore.open(ROOT), TrajectoryStore.open(folder)
    store.experts()
    for epoch, most in ((7, 2), (0, 1), (48, 1)):
        bucket.asked.clear()
        found, wanted = store.segment(0, epoch, 2), local.segment(0, epoch, 2)
        assert torch.equal(found.start, wanted.start)
        assert torch.equal(found.checkpoints, wanted.checkpoints)
        assert len(bucket.asked) == most, bucket.asked
        assert sum(size for *_, size in bucket.asked) < 0.065 * (folder / "000.safetensors").stat().st_size


def test_of_many_who_put_one_object_one_does(bucket: Server) -> None:
    there, together = Objects(Url(ROOT)), threading.Barrier(4)

    def put(number: int) -> bool:
        together.wait()
        return there.put("000.safetensors", bytes([number]) * 1000)

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(put, range(4)))
    assert sum(done) == 1
    assert there.read_all("000.safetensors") == bytes([done.index(True)]) * 1000


def test_a_second_writer_keeps_the_expert_of_the_first(bucket: Server, capsys: pytest.CaptureFixture[str]) -> None:
    store = experts(count=1)
    before = store.files.objects.read_all("000.safetensors")  # pyright: ignore[reportAttributeAccessIssue]
    (store.scratch / "000.safetensors").write_bytes(before)
    store.files.publish(0, TINY_RECIPE.epochs, store.scratch / "000.partial")
    assert "Expert 0 was saved by another process first; " in capsys.readouterr().err
    assert store.files.objects.read_all("000.safetensors") == before  # pyright: ignore[reportAttributeAccessIssue]


def test_a_killed_worker_is_followed_on_a_machine_that_has_nothing(
    tmp_path: Path, bucket: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", JOB]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | path_of_tests()) as job:
        assert job.stdout is not None
        while job.stdout.readline().strip() not in ("3", ""):
            pass
        time.sleep(0.02)
        job.send_signal(signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    states = [name for name in Objects(Url("s3://bucket")).sizes() if "partial" in name]
    assert states, "it was killed in the middle of an expert, whose state is there"
    monkeypatch.setenv("ASTDISTILL_CACHE", str(tmp_path / "elsewhere"))
    bucket.asked.clear()
    recipe = TINY_RECIPE.replace(epochs=20)
    found = experts(count=1, recipe=recipe)
    assert any(int(name[:4]) >= 3 for method, name, _ in bucket.asked if method == "GET" and name[:4].isdigit())
    assert same_store(found, tiny_experts(tmp_path, blobs(), count=1, recipe=recipe))


def path_of_tests() -> dict[str, str]:
    """The environment in which a Python finds the helpers of the tests."""
    here = str(Path(__file__).parents[1])
    return {"PYTHONPATH": os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])}


def test_a_run_by_the_installed_command_then_verify_and_doctor(
    tmp_path: Path, bucket: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Path(sys.executable).with_name("astdistill")
    words = [script, *RUN, "--out", "cloud", "--experts.store", ROOT]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    assert exit_code(*RUN, "--out", "folder") == 0
    assert Path("cloud/metrics.jsonl").read_bytes() == Path("folder/metrics.jsonl").read_bytes()
    images = [load_file(Path(out, "synthetic.safetensors"))["images"] for out in ("cloud", "folder")]
    assert torch.equal(*images)
    assert json.loads(Path("cloud/config.json").read_text())["experts"]["store"] == ROOT
    assert not list(tmp_path.glob("s3*"))
    capsys.readouterr()
    assert exit_code("verify", ROOT) == 0
    assert "6 files" in (said := capsys.readouterr().out)
    assert "none damaged" in said
    assert exit_code("doctor", "--store", ROOT, "--json") == 0
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert "can be listed and written to" in finding["text"]
    assert "1 kinds of experts" in finding["text"]


def test_verify_names_a_damaged_object_and_its_expert(bucket: Server, capsys: pytest.CaptureFixture[str]) -> None:
    store = experts(count=1, stop_after=2)
    (name,) = (name for name in Objects(Url("s3://bucket")).sizes() if name.endswith("000-0002.safetensors"))
    data = bytearray(Objects(Url("s3://bucket")).read_all(name))
    data[-1] ^= 1
    import_module("s3fs").S3FileSystem().pipe_file(f"bucket/{name}", bytes(data))
    assert exit_code("verify", ROOT) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert f"s3://bucket/{name} was changed after it was written: row 2 of expert 0" in said
    with pytest.raises(InputError, match=r"000-0002\.safetensors was changed .*row 2 of expert 0"):
        TrajectoryStore.open(store.folder).rows(0, 0, 3)


def test_what_is_wrong_with_a_place_is_said_before_anything_is_spent(
    tmp_path: Path, bucket: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()

    def said(*words: str) -> str:
        assert exit_code(*RUN, "--out", "out", *words) == 2
        assert not Path("out").exists()
        return capsys.readouterr().err

    assert "There is no bucket 'elsewhere' (s3://elsewhere/x); make it" in said("--experts.store", "s3://elsewhere/x")
    assert "'http' is no scheme of a store" in said("--experts.store", "http://bucket/x")
    bucket.post("moto-api/reset-auth", b"0")
    try:
        refused = said("--experts.store", ROOT)
    finally:
        bucket.post("moto-api/reset-auth", b"inf")
    assert f"{ROOT} may not be used (" in refused
    assert "the rights to list, read and put objects are needed there" in refused
    assert "Expert" not in refused


@pytest.mark.slow
def test_the_measurement_of_reads(tmp_path: Path) -> None:
    """Its first segment takes two requests and the others one, and reading ahead leaves less to wait for."""
    script, result = Path(__file__).parents[2] / "benchmarks" / "cloud.py", tmp_path / "cloud.json"
    small = ("--parameters", "3000", "--steps", "4", "--delay", "0.1", "--step", "0.4", "--json", str(result))
    subprocess.run([sys.executable, str(script), *small], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    (row,) = json.loads(result.read_text(encoding="utf-8"))["rows"]
    assert [read["requests"] for read in row["segments"]] == [2, 1, 1, 1, 1]
    assert row["equal"]
    assert min(row["waits_ms"]) >= 100 > min(row["waits_ahead_ms"][1:])
