"""A cache of results, keyed by everything that a network's accuracy depends on, so that none is trained twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ..runtime.config import digest
from ..runtime.files import cache_folder, read_json, reading, write_json
from ..runtime.run_dir import RunDir
from .rows import FULL_DATA, TableRow
from .scores import RowScores
from .training import NetworkResult

FORMAT = 1
NOT_IN_KEY = ("name", "reported", "full_epochs", "networks")
"""Fields of a recipe that do not affect a single network; the recipe of the full-data row has its epochs in
`epochs`."""


class CachedRow:
    """The finished networks of one row; `keep` is called with each new one."""

    def __init__(
        self,
        row: TableRow,
        results: Mapping[int, NetworkResult],
        keep: Callable[[int, NetworkResult], object] = lambda k, result: None,
    ) -> None:
        self.row, self.results, self._keep = row, dict(results), keep

    def add(self, k: int, result: NetworkResult) -> None:
        """Store the result of network k."""
        self._keep(k, result)
        self.results[k] = result

    def entry(self, unequal: bool = False) -> RowScores:
        """The scores of the finished networks, with balanced accuracies where the tested classes are `unequal`."""
        return RowScores.of([self.results[k] for k in sorted(self.results)], self.row.recipe.reported, unequal)


RESULT = TypeAdapter(NetworkResult)


class NetworkCache:
    """Results by recipe, network, images, data set, tested split, seed and number of the network.

    A changed recipe or image gives other keys, so that training starts over and earlier results stay. With `path` None
    nothing is stored. Networks trained on all training images are stored in the cache folder as well, for other runs on
    the same data.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._stored: dict[str, Any] = {}
        if path is not None and path.exists():
            content = read_json(path)
            if content.get("format") == FORMAT:
                self._stored = content.get("networks", {})
            with reading(path, "results of networks", "restore it, or delete it and run the same command again"):
                for each in self._stored.values():
                    self._result(each)

    @staticmethod
    @contextmanager
    def reserved(out: Path | None) -> Iterator[NetworkCache]:
        """The cache of the folder `out`, shared by all tables of that folder, which is reserved for this thread
        meanwhile: each new result rewrites the whole file. Raises InputError where another process is writing there."""
        if out is None:
            yield NetworkCache(None)
            return
        with RunDir(out).writing():
            yield NetworkCache(RunDir(out).networks)

    def row(self, row: TableRow, common: Mapping[str, Any], seeds: int) -> CachedRow:
        """The row with the cached results of its first `seeds` networks; results that are added to it are stored.

        `common` holds the parts of the key that all rows share.
        """
        recipe = {name: value for name, value in row.recipe.to_json().items() if name not in NOT_IN_KEY}
        key_fields = {"recipe": recipe, "model": row.model, "images": row.content, **common}
        cached = {k: self._result(self._get({**key_fields, "network": k})) for k in range(seeds)}
        results = {k: result for k, result in cached.items() if result is not None}
        return CachedRow(row, results, lambda k, result: self._put({**key_fields, "network": k}, result))

    @staticmethod
    def _result(stored: dict[str, Any] | None) -> NetworkResult | None:
        if stored is None:
            return None
        values = {name: stored[name] for name in ("final", "best", "diverged")}
        values |= {
            name: stored.get(name) or None for name in ("by_class", "confusion", "by_steps")
        }  # absent in older files
        return RESULT.validate_python(values)

    def _get(self, key_fields: dict[str, Any]) -> dict[str, Any] | None:
        """The stored result: of this folder or, for a network trained on all images, of another run on the same
        data."""
        stored = self._stored.get(digest(key_fields))
        if stored is None and self._shared(key_fields):
            with suppress(ValueError, KeyError, TypeError):  # no file yet, or a damaged one: train again
                saved = read_json(_shared_path(key_fields))
                self._result(saved)
                stored = self._stored[digest(key_fields)] = saved
                self._write()
        return stored

    def _shared(self, key_fields: Mapping[str, Any]) -> bool:
        return self.path is not None and key_fields["images"] == FULL_DATA

    def _put(self, key_fields: dict[str, Any], result: NetworkResult) -> None:
        """Store one result immediately, together with its key in readable form."""
        figures = {name: value for name, value in asdict(result).items() if name != "by_steps" or value}
        self._stored[digest(key_fields)] = {**figures, "about": key_fields}
        if self._shared(key_fields):
            with suppress(OSError):  # a cache that cannot be written to does not stop the run
                write_json(_shared_path(key_fields), self._stored[digest(key_fields)])
        self._write()

    def _write(self) -> None:
        if self.path is not None:
            write_json(self.path, {"format": FORMAT, "networks": self._stored})


def _shared_path(key_fields: Mapping[str, Any]) -> Path:
    """The path in the cache folder of a network trained on all training images."""
    return cache_folder() / "networks" / f"{digest(dict(key_fields))}.json"
