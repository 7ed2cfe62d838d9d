"""`ingot render`: argv to a Deployment to files. No logic of its own."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from ingot.errors import DeploymentError
from ingot.templates.deployment import Deployment, ModelSpec, read_models
from ingot.templates.ledger import Changes


@click.command()
@click.argument("engines", nargs=-1, required=True, metavar="[NAME[@VERSION]=]ENGINE...")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default=Path("model_repository"),
    show_default=True,
    help="The folder.",
)
@click.option(
    "--engine-root", metavar="PATH", help="Where the server will see the engines, e.g. /engines in a container."
)
@click.option(
    "--label", "labels", multiple=True, metavar="NAME:LABEL=VERSION", help="Serves a version as NAME:LABEL too."
)
@click.option("--weight", "weights", multiple=True, metavar="NAME@VERSION=SHARE", help="Splits requests over versions.")
@click.option("--prune", is_flag=True, help="Removes rendered models that are not among ENGINES.")
@click.option(
    "--manifests", type=click.Path(path_type=Path), help="Writes Docker, Kubernetes and monitoring files there too."
)
def render(
    engines: tuple[str, ...],
    out: Path,
    engine_root: str | None,
    labels: tuple[str, ...],
    weights: tuple[str, ...],
    prune: bool,
    manifests: Path | None,
) -> None:
    """Writes a Triton model repository that serves ENGINES.

    Each engine becomes a model named as its manifest says, or as NAME; engines that share a NAME are its versions.
    Every config.pbtxt is checked against Triton's own schema. Files that were not rendered, or were changed since, are
    never overwritten.
    """
    from ingot.templates.render import render as render_repository
    from ingot.templates.render import render_manifests

    models = read_models(engines, engine_root=engine_root)
    deployment = Deployment(models=tuple(with_routes(model, labels, weights) for model in models))
    check_routes(deployment, labels, weights)
    show(out, render_repository(deployment, out, prune=prune))
    if manifests is not None:
        show(manifests, render_manifests(deployment, manifests))


def with_routes(model: ModelSpec, labels: tuple[str, ...], weights: tuple[str, ...]) -> ModelSpec:
    """The model with its own labels and weights among those given."""
    found_labels = {key: number for name, key, number in (split(text, ":") for text in labels) if name == model.name}
    found_weights = {
        int(key): number for name, key, number in (split(text, "@") for text in weights) if name == model.name
    }
    return msgspec.structs.replace(model, labels=found_labels, weights=found_weights)


def check_routes(deployment: Deployment, labels: tuple[str, ...], weights: tuple[str, ...]) -> None:
    names = {model.name for model in deployment.models}
    for text, mark in [(text, ":") for text in labels] + [(text, "@") for text in weights]:
        name, _, _ = split(text, mark)
        if name not in names:
            raise DeploymentError(
                f"{text!r} is for {name}, which is not among the engines.", mend="Give its engine too."
            )


def split(text: str, mark: str) -> tuple[str, str, int]:
    """`tiny:canary=2` or `tiny@2=10` -> ("tiny", "canary", 2) or ("tiny", "2", 10)."""
    left, _, number = text.rpartition("=")
    name, _, key = left.partition(mark)
    if not (name and key and number.isdigit()) or (mark == "@" and not key.isdigit()):
        example = "tiny:canary=2" if mark == ":" else "tiny@2=10"
        raise DeploymentError(f"{text!r} is not understood.", mend=f"Write it like {example}.")
    return name, key, int(number)


def show(folder: Path, changes: Changes) -> None:
    for verb, names in (("wrote", changes.written), ("removed", changes.removed)):
        for name in names:
            click.echo(f"{verb} {folder / name}")
    if changes.unchanged:
        click.echo(f"{len(changes.unchanged)} files were up to date")
