"""A stand-in for Ray: the calls of it that the package makes, with every node in this process, and every job computed
when it is handed out. What real nodes and processes do is tested with Ray (`cluster/test_cluster.py`)."""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pytest


class RayError(Exception):
    """What Ray's own errors are."""


class RayTaskError(RayError):
    """A function raised."""


class WorkerCrashedError(RayError):
    """A process is gone."""


class GetTimeoutError(RayError):
    """An answer has not come."""


class AuthenticationError(Exception):
    """A token is wrong."""


class Answer:
    """What a call gave, or what is raised where somebody asks for it."""

    def __init__(self, value: Any = None, error: BaseException | None = None) -> None:
        self.value, self.error = value, error


class Remote:
    """A function of a node, or the class of an actor."""

    def __init__(self, ray: Ray, thing: Any) -> None:
        self._ray, self._thing = ray, thing

    def options(self, **words: Any) -> Remote:
        self._ray.options.append(words)
        return self

    def remote(self, *given: Any) -> Any:
        if isinstance(self._thing, type):
            return Actor(self._ray, self._thing(*given))
        return self._ray.called(self._thing, given)


class Actor:
    def __init__(self, ray: Ray, thing: Any) -> None:
        self._ray, self._thing = ray, thing

    def __getattr__(self, name: str) -> Remote:
        return Remote(self._ray, getattr(self._thing, name))


def node(number: int, **resources: float) -> dict[str, Any]:
    """One that runs."""
    return {
        "NodeID": f"{number:056x}"[::-1],
        "NodeManagerHostname": f"node{number}",
        "NodeManagerAddress": f"10.0.0.{number}",
        "Resources": resources,
        "Alive": True,
    }


class Ray(ModuleType):
    """The module `ray`, which is installed for one test."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.exceptions = self.util = sys.modules[__name__]
        self.joined, self.addresses = False, list[str]()
        self.refuses: BaseException | None = None
        """What `init` raises."""
        self.lost: list[BaseException] = []
        """What is said of the next jobs in place of their answers."""
        self.cancelled: list[Answer] = []
        self.options: list[dict[str, Any]] = []
        self.found = [node(1, CPU=1.0), node(2, CPU=1.0), {**node(3, CPU=8.0), "Alive": False}]

    def is_initialized(self) -> bool:
        return self.joined

    def init(self, address: str, **_: Any) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.joined = True
        self.addresses.append(address)

    def shutdown(self) -> None:
        self.joined = False

    def nodes(self) -> list[dict[str, Any]]:
        return self.found

    def get_runtime_context(self) -> Any:
        return self

    def get_node_id(self) -> str:
        return self.found[0]["NodeID"]

    def remote(self, thing: Any) -> Remote:
        return Remote(self, thing)

    def put(self, value: Any) -> Answer:
        return Answer(value)

    def called(self, function: Callable[..., Any], given: Sequence[Any]) -> Answer:
        known = [each.value if isinstance(each, Answer) else each for each in given]
        if self.lost and function.__name__ == "job":
            return Answer(error=self.lost.pop(0))
        try:
            return Answer(contextvars.copy_context().run(function, *known))
        except Exception as error:
            return Answer(error=RayTaskError(f"{type(error).__name__}: {error}"))

    def get(self, answer: Answer, timeout: float | None = None) -> Any:
        if answer.error is not None:
            raise answer.error
        return answer.value

    def wait(self, answers: Sequence[Answer], num_returns: int = 1, timeout: float | None = None) -> Any:
        return list(answers[:num_returns]), list(answers[num_returns:])

    def cancel(self, answer: Answer, force: bool) -> None:
        self.cancelled.append(answer)

    def kill(self, actor: Actor) -> None:
        """Nothing: it ends with the test."""


class NodeAffinitySchedulingStrategy:
    """Where a call is computed."""

    def __init__(self, number: str, soft: bool) -> None:
        self.number, self.soft = number, soft


def installed(monkeypatch: pytest.MonkeyPatch) -> Ray:
    """Put it where the package looks for Ray."""
    ray = Ray()
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.util.scheduling_strategies", sys.modules[__name__])
    return ray
