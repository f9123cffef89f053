"""Networks that are trained already, by everything that their accuracy depends on, so that none is trained twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
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
UNTRAINED = ("name", "reported", "full_epochs", "networks")
"""What of a recipe no single network depends on: the full-data row has its epochs in `epochs` by then."""


class CachedRow:
    """The networks of one row, as far as they are finished; `keep` is told of each new one."""

    def __init__(
        self,
        row: TableRow,
        results: Mapping[int, NetworkResult],
        keep: Callable[[int, NetworkResult], object] = lambda k, result: None,
    ) -> None:
        self.row, self.results, self._keep = row, dict(results), keep

    def add(self, k: int, result: NetworkResult) -> None:
        """Network k is finished."""
        self._keep(k, result)
        self.results[k] = result

    def entry(self, unequal: bool = False) -> RowScores:
        """What the finished networks reach, with balanced accuracies where the tested classes are `unequal`."""
        return RowScores.of([self.results[k] for k in sorted(self.results)], self.row.recipe.reported, unequal)


RESULT = TypeAdapter(NetworkResult)


class NetworkCache:
    """Results by recipe, network, images, data set, tested split, seed and number of the network.

    A changed recipe or image asks for other keys, so it starts over without touching what was there. With `path` None
    nothing is stored. Networks of all training images are kept in the cache folder as well, for other runs on the same
    data.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._stored: dict[str, Any] = {}
        if path is not None and path.exists():
            kept = read_json(path)
            if kept.get("format") == FORMAT:
                self._stored = kept.get("networks", {})
            with reading(path, "results of networks", "restore it, or delete it and run the same command again"):
                for each in self._stored.values():
                    self._result(each)

    @staticmethod
    def beside(out: Path | None) -> NetworkCache:
        """The cache of the folder `out`, which every table of that folder shares."""
        if out is None:
            return NetworkCache(None)
        return NetworkCache(RunDir(out).networks)

    def row(self, row: TableRow, common: Mapping[str, Any], seeds: int) -> CachedRow:
        """The first `seeds` networks of the row, as far as they are here; new ones are stored. `common` is what the
        networks of all rows share."""
        recipe = {name: value for name, value in row.recipe.to_json().items() if name not in UNTRAINED}
        about = {"recipe": recipe, "model": row.model, "images": row.content, **common}
        known = {k: self._result(self._get({**about, "network": k})) for k in range(seeds)}
        results = {k: result for k, result in known.items() if result is not None}
        return CachedRow(row, results, lambda k, result: self._put({**about, "network": k}, result))

    @staticmethod
    def _result(stored: dict[str, Any] | None) -> NetworkResult | None:
        if stored is None:
            return None
        known = {name: stored[name] for name in ("final", "best", "diverged")}
        known |= {name: stored.get(name) or None for name in ("by_class", "confusion", "by_steps")}  # newer than others
        return RESULT.validate_python(known)

    def _get(self, about: dict[str, Any]) -> dict[str, Any] | None:
        """The stored result: of this folder, or of another run's that was trained on all of the same images."""
        stored = self._stored.get(digest(about))
        if stored is None and self._shared(about):
            with suppress(ValueError, KeyError, TypeError):  # none yet, or a spoilt file: it is trained again
                saved = read_json(_file(about))
                self._result(saved)
                stored = self._stored[digest(about)] = saved
                self._write()
        return stored

    def _shared(self, about: Mapping[str, Any]) -> bool:
        return self.path is not None and about["images"] == FULL_DATA

    def _put(self, about: dict[str, Any], result: NetworkResult) -> None:
        """Store one result at once, with a readable note of what it is."""
        figures = {name: value for name, value in asdict(result).items() if name != "by_steps" or value}
        self._stored[digest(about)] = {**figures, "about": about}
        if self._shared(about):
            with suppress(OSError):  # a cache that cannot be written to stops no run
                write_json(_file(about), self._stored[digest(about)])
        self._write()

    def _write(self) -> None:
        if self.path is not None:
            write_json(self.path, {"format": FORMAT, "networks": self._stored})


def _file(about: Mapping[str, Any]) -> Path:
    """Where the cache folder keeps a network of all training images."""
    return cache_folder() / "networks" / f"{digest(dict(about))}.json"
