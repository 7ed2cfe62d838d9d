"""Deployment to files: strict jinja2, each config.pbtxt checked against Triton's own schema before anything is written."""

from __future__ import annotations

from pathlib import Path

import msgspec
from google.protobuf import text_format
from jinja2 import Environment, PackageLoader, StrictUndefined
from tritonclient.grpc import model_config_pb2

from ingot.errors import DeploymentError
from ingot.templates.deployment import Deployment, ModelSpec
from ingot.templates.ledger import Changes, Ledger

ROUTES = "routes.json"
MANIFESTS = ("Dockerfile", "compose.yaml", "kubernetes.yaml", "prometheus.yml", "grafana.json")


def render(deployment: Deployment, out: Path, *, prune: bool = False) -> Changes:
    """Writes a model repository into `out`: per model a config.pbtxt, per version a model.py and its engine's path.

    Models that stand there already and are not in `deployment` stay, unless `prune`. Raises DeploymentError, before the
    first write, where a file in the way was not rendered by ingot or was changed since.
    """
    files: dict[str, str] = {}
    for model in deployment.models:
        files |= repository_files(model)
    routes = {m.name: {"weights": m.weights, "labels": m.labels} for m in deployment.models if m.weights or m.labels}
    if routes:
        files[ROUTES] = json_text(routes)
    return Ledger(out).write(files, prune=prune)


def render_manifests(deployment: Deployment, out: Path) -> Changes:
    """Writes what runs the repository: Dockerfile, compose file, Kubernetes manifests, Prometheus and Grafana files."""
    environment = strict_environment()
    files = {name: environment.get_template(f"deploy/{name}.j2").render(deployment=deployment) for name in MANIFESTS}
    return Ledger(out).write(files)


def repository_files(model: ModelSpec) -> dict[str, str]:
    """Path below the repository -> text, for one model."""
    environment = strict_environment()
    config = environment.get_template("llm/config.pbtxt.j2").render(model=model)
    check_config(config, model.name)
    program = environment.get_template("llm/1/model.py.j2").render(model=model)
    files = {f"{model.name}/config.pbtxt": config}
    for version, engine in sorted(model.versions.items()):
        files[f"{model.name}/{version}/model.py"] = program
        files[f"{model.name}/{version}/engine.json"] = json_text({"engine": engine})
    return files


def check_config(text: str, name: str) -> None:
    """Parses `text` as Triton will: a misspelt field, a left-over placeholder or a wrong type raises DeploymentError."""
    try:
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise DeploymentError(
            f"The config.pbtxt of {name} does not follow Triton's schema: {error}.",
            mend="Mend templates/llm/config.pbtxt.j2, or the field of the deployment that the message names.",
        ) from error
    if config.name != name:
        raise DeploymentError(
            f"The config.pbtxt of {name} names the model {config.name}.", mend="Mend templates/llm/config.pbtxt.j2."
        )


def strict_environment() -> Environment:
    """No autoescape: none of the files is HTML, and names are checked by the Deployment."""
    return Environment(
        loader=PackageLoader("ingot.templates", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )


def json_text(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"
