"""Deployment: every name the templates may read, typed and checked. Knows no files but engine manifests, and no Triton."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from ingot.errors import DeploymentError, EngineError
from ingot.manifest import read_manifest

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SPEC = re.compile(r"(?:(?P<name>[^=@/]+)(?:@(?P<version>[^=]+))?=)?(?P<path>.+)")
DEVICES = ("cpu", "gpu")
POLICIES = ("all", "latest", "specific")


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model of the repository: a name, and an engine folder per version, as the server will see the path."""

    name: str
    versions: dict[int, str]
    device: str = "cpu"  # where the executor computes: cpu | gpu
    gpu: int = 0  # which GPU; read where device is gpu
    policy: str = "all"  # which versions are served at once: all | latest | specific
    served: tuple[int, ...] = ()  # the versions of policy `specific`
    labels: dict[str, int] = {}  # a word after the colon of `model:canary` -> version
    weights: dict[int, int] = {}  # version -> share of the requests that name no version
    max_waiting: int = 1024  # requests that may queue before new ones are refused

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise DeploymentError(
                f"{self.name!r} cannot be a folder and model name.",
                mend="Use letters, digits, dot, dash and underscore: ingot render NAME=ENGINE.",
            )
        if not self.versions or min(self.versions) < 1:
            raise DeploymentError(
                f"{self.name} has versions {sorted(self.versions)}; Triton counts them from 1.",
                mend="Name each engine's version: ingot render NAME@1=ENGINE.",
            )
        check_choice(self.name, "device", self.device, DEVICES)
        check_choice(self.name, "policy", self.policy, POLICIES)
        named = {*self.served, *self.labels.values(), *self.weights}
        if unknown := sorted(named - set(self.versions)):
            raise DeploymentError(
                f"{self.name} names version {unknown[0]} in a label, weight or policy; it has {sorted(self.versions)}.",
                mend="Give that version an engine: ingot render NAME@VERSION=ENGINE.",
            )
        if (self.policy == "specific") != bool(self.served):
            raise DeploymentError(
                f"{self.name} has the version policy {self.policy} and serves {list(self.served)}.",
                mend="List versions with the policy `specific`, and with no other.",
            )
        if self.weights and (min(self.weights.values()) < 0 or not sum(self.weights.values())):
            raise DeploymentError(
                f"{self.name} has the weights {self.weights}.", mend="Give whole numbers >= 0, at least one above 0."
            )


class Deployment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a repository and its manifests are rendered from."""

    models: tuple[ModelSpec, ...]
    image: str = "nvcr.io/nvidia/tritonserver:26.03-py3"  # the NGC container, by its pinned tag
    replicas: int = 1
    max_replicas: int = 4
    queue_target: int = 16  # waiting requests per replica that make Kubernetes add one
    memory: str = "32Gi"

    def __post_init__(self) -> None:
        names = [model.name for model in self.models]
        if not names or len(set(names)) != len(names):
            raise DeploymentError(f"The models are {names}.", mend="Give at least one engine, and each name once.")
        if not 1 <= self.replicas <= self.max_replicas:
            raise DeploymentError(
                f"replicas is {self.replicas} and max_replicas {self.max_replicas}.",
                mend="Let replicas be at least 1 and at most max_replicas.",
            )

    @property
    def gpus(self) -> int:
        """GPUs one replica needs."""
        return len({model.gpu for model in self.models if model.device == "gpu"})


def check_choice(model: str, field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise DeploymentError(f"{model}: {field} is {value!r}.", mend=f"Use one of {', '.join(allowed)}.")


def read_models(specs: tuple[str, ...], *, engine_root: str | None = None) -> list[ModelSpec]:
    """`[NAME[@VERSION]=]ENGINE` words to models; name and device come from each manifest where the word names none.

    With `engine_root`, each engine is written as that folder plus its own folder's name: the path inside a container.
    """
    versions: dict[str, dict[int, str]] = {}
    devices: dict[str, str] = {}
    for spec in specs:
        found = SPEC.fullmatch(spec)
        if found is None:
            raise DeploymentError(f"{spec!r} names no engine.", mend="Write [NAME[@VERSION]=]ENGINE.")
        engine = Path(found["path"]).resolve()
        if not engine.is_dir():
            raise EngineError(f"{engine} is not a folder.", mend="Build an engine first: ingot build MODEL -o DIR.")
        manifest = read_manifest(engine)
        name = found["name"] or manifest.name
        version = found["version"] or "1"
        if not version.isdigit() or int(version) in versions.get(name, {}):
            raise DeploymentError(
                f"{spec!r}: version {version} of {name} is not a number, or is given twice.",
                mend="Number the versions of one name: NAME@1=ENGINE NAME@2=ENGINE.",
            )
        device = "cpu" if manifest.target == "cpu" else "gpu"
        if devices.setdefault(name, device) != device:
            raise DeploymentError(
                f"The versions of {name} are for different devices.", mend="Give each device a model name of its own."
            )
        path = f"{engine_root.rstrip('/')}/{engine.name}" if engine_root else str(engine)
        versions.setdefault(name, {})[int(version)] = path
    return [ModelSpec(name=name, versions=found, device=devices[name]) for name, found in versions.items()]
