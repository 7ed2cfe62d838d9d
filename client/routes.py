"""Which version of which model a name means: labels as in `tiny:canary`, and shares of the requests that name none.

Read from a file that may change while requests run (`ingot render` writes it as routes.json). Knows no server.
"""

from __future__ import annotations

import logging
import random
from pathlib import Path

import msgspec

from ingot.errors import DeploymentError, UnknownModelError

logger = logging.getLogger(__name__)


class Route(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    weights: dict[int, int] = {}  # version -> share; none: the server chooses
    labels: dict[str, int] = {}  # word after the colon -> version


class Routes:
    """Looks at the file again whenever it changed. A file that became unreadable leaves the last routes in force."""

    def __init__(self, path: Path | None) -> None:
        """Raises DeploymentError where the file cannot be read now."""
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._routes: dict[str, Route] = {}
        if path is not None:
            self._stamp, self._routes = self._read(path)

    def resolve(self, name: str) -> tuple[str, str]:
        """Model and version for a request. The version is empty where the server chooses."""
        model, _, label = name.partition(":")
        route = self._now().get(model, Route())
        if label:
            if label not in route.labels:
                known = ", ".join(sorted(route.labels)) or "none"
                raise UnknownModelError(f"{model} has no label {label[:200]!r}.", mend=f"Its labels: {known}.")
            return model, str(route.labels[label])
        if not route.weights:
            return model, ""
        versions = list(route.weights)
        (version,) = random.choices(versions, [route.weights[version] for version in versions])
        return model, str(version)

    def names(self, model: str) -> list[str]:
        """What a model can be called: its own name, and one for each label."""
        return [model, *(f"{model}:{label}" for label in self._now().get(model, Route()).labels)]

    def main_version(self, name: str) -> str:
        """The version that most requests for the name reach."""
        route = self._now().get(name, Route())
        return str(max(route.weights, key=lambda version: route.weights[version])) if route.weights else ""

    def _now(self) -> dict[str, Route]:
        if self._path is not None:
            try:
                if stamp_of(self._path) != self._stamp:
                    self._stamp, self._routes = self._read(self._path)
                    logger.warning("routes: %s", self._routes)
            except (DeploymentError, OSError) as error:
                logger.error("the old routes stay in force: %s", error)
        return self._routes

    def _read(self, path: Path) -> tuple[tuple[int, int], dict[str, Route]]:
        mend = "Let it be as `ingot render --label --weight` writes it."
        try:
            stamp = stamp_of(path)
            routes = msgspec.json.decode(path.read_bytes(), type=dict[str, Route])
        except OSError as error:
            raise DeploymentError(f"{path} cannot be read: {error.strerror}.", mend=mend) from error
        except msgspec.MsgspecError as error:
            raise DeploymentError(f"{path} is not a file of routes: {error}.", mend=mend) from error
        for model, route in routes.items():
            if route.weights and (min(route.weights.values()) < 0 or not sum(route.weights.values())):
                raise DeploymentError(
                    f"{path}: the weights of {model} are {route.weights}.", mend="Let one be above 0."
                )
        return stamp, routes


def stamp_of(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size
