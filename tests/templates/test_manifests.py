"""The deployment files, read by the parsers of their formats. No container was run here."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from ingot.templates import Deployment, ModelSpec
from ingot.templates.render import render_manifests, repository_files

MODELS = (
    ModelSpec(name="tiny", versions={1: "/engines/a"}),
    ModelSpec(name="large", versions={1: "/engines/b"}, device="gpu"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    render_manifests(Deployment(models=MODELS), tmp_path)
    return tmp_path


def kinds(folder: Path) -> dict[str, Any]:
    return {part["kind"]: part for part in yaml.safe_load_all((folder / "kubernetes.yaml").read_text())}


def engine_metrics() -> set[str]:
    """Names that the rendered model.py puts on Triton's metrics port."""
    program = repository_files(MODELS[0])["tiny/1/model.py"]
    names = {
        key: ast.literal_eval(value) for key, value in re.findall(r"^(COUNTERS|GAUGES) = (.*)$", program, re.MULTILINE)
    }
    histograms = {"ingot_time_to_first_token_seconds_bucket", "ingot_request_seconds_bucket"}
    return histograms | {f"ingot_{n}_total" for n in names["COUNTERS"]} | {f"ingot_{n}" for n in names["GAUGES"]}


def test_the_pod_is_unprivileged_and_probed(folder: Path) -> None:
    pod = kinds(folder)["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    script = container["livenessProbe"]["exec"]["command"][-1]
    for line, model in zip(script.splitlines(), MODELS, strict=True):
        words = shlex.split(line)
        assert json.loads(json.loads(words[words.index("-d") + 1])["request"]) == {"type": "describe"}
        assert words[-1].endswith(f"/{model.name}/generate")
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert container["startupProbe"]
    assert container["readinessProbe"]


def test_kubernetes_parts_select_each_other(folder: Path) -> None:
    parts = kinds(folder)
    labels = parts["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert parts["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert parts["Service"]["spec"]["selector"] == labels
    assert parts["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    scaler = parts["HorizontalPodAutoscaler"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == parts["Deployment"]["metadata"]["name"]
    assert scaler["metrics"][0]["pods"]["metric"]["name"] in engine_metrics()
    assert scaler["minReplicas"] <= scaler["maxReplicas"]


def test_loading_models_needs_the_key_everywhere(folder: Path) -> None:
    flags = kinds(folder)["Deployment"]["spec"]["template"]["spec"]["containers"][0]["args"]
    compose = yaml.safe_load((folder / "compose.yaml").read_text())["services"]["triton"]["command"]
    for words in (flags, compose):
        restricted = [word for word in words if "restricted" in word]
        assert len(restricted) == 2
        assert all("model-repository" in word and "INGOT_ADMIN_KEY" in word for word in restricted)


def test_compose_listens_on_loopback_as_nobody_special(folder: Path) -> None:
    services = yaml.safe_load((folder / "compose.yaml").read_text())["services"]
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service["ports"])
    assert services["triton"]["user"] != "0:0"
    assert services["triton"]["deploy"]["resources"]["reservations"]["devices"][0]["count"] == 1


def test_dockerfile_is_pinned_and_not_root(folder: Path) -> None:
    text = (folder / "Dockerfile").read_text()
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    lines = [line.split(maxsplit=1) for line in joined.splitlines() if line]
    known = {"FROM", "COPY", "RUN", "ENV", "USER", "EXPOSE", "VOLUME", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    assert {word for word, _ in lines} <= known
    parts = dict(lines)
    assert re.fullmatch(r"nvcr\.io/nvidia/tritonserver:\d\d\.\d\d-py3", parts["FROM"])
    assert parts["USER"] == "1000:1000"
    assert [word for word, _ in lines].index("USER") < [word for word, _ in lines].index("ENTRYPOINT")
    assert json.loads(parts["ENTRYPOINT"]) == ["tritonserver"]
    assert all(flag.startswith("--") for flag in json.loads(parts["CMD"]))


def test_dashboard_asks_for_metrics_that_exist(folder: Path) -> None:
    dashboard = json.loads((folder / "grafana.json").read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"ingot_\w+", target["expr"])
    }
    assert asked
    assert asked <= engine_metrics()
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)


def test_prometheus_scrapes_the_metrics_port(folder: Path) -> None:
    config = yaml.safe_load((folder / "prometheus.yml").read_text())
    service, port = config["scrape_configs"][0]["static_configs"][0]["targets"][0].split(":")
    assert (service, port) == ("triton", "8002")
    assert service in yaml.safe_load((folder / "compose.yaml").read_text())["services"]
