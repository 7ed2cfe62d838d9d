"""The OpenAPI document against the server: schemathesis makes requests of it, good and bad, and holds the answers to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.client.fake_backend import FakeBackend
from tests.client.served import served
from tests.engines import LOADER, NAME, worker_path, write_engine

from ingot.client.embedded import EmbeddedBackend, EmbeddedOptions
from ingot.client.openai.app import create_app
from ingot.runtime.supervisor import SupervisorOptions

DOCUMENT = create_app(FakeBackend()).openapi()
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS = [found.ok() for found in SCHEMA.get_all_operations()]
CASES = [
    *((operation, GenerationMode.POSITIVE) for operation in OPERATIONS),
    *((operation, GenerationMode.NEGATIVE) for operation in OPERATIONS if operation.body),
]
CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES = 6


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    engine = write_engine(tmp_path_factory.mktemp("described") / "engine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", worker_path())
        with served(EmbeddedBackend(engine, EmbeddedOptions(supervisor=SupervisorOptions(loader=LOADER)))) as url:
            yield url


@pytest.mark.parametrize(
    ("operation", "mode"), CASES, ids=[f"{operation.label} {mode.value}" for operation, mode in CASES]
)
def test_answers_are_as_the_document_says(url: str, operation: Any, mode: GenerationMode) -> None:
    @settings(
        max_examples=EXAMPLES, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(case=operation.as_strategy(mode))
    def send(case: Case) -> None:
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = NAME
        case.call_and_validate(base_url=url, checks=CHECKS, timeout=60)

    send()


def test_every_reference_leads_somewhere() -> None:
    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            yield from ([value["$ref"]] if isinstance(value.get("$ref"), str) else [])
            value = list(value.values())
        if isinstance(value, list):
            for child in value:
                yield from references(child)

    found = set(references(DOCUMENT))
    assert len(found) > 20
    assert {one.removeprefix("#/components/schemas/") for one in found} <= set(DOCUMENT["components"]["schemas"])


def test_every_post_route_says_what_it_takes_and_how_it_refuses() -> None:
    for path, operations in DOCUMENT["paths"].items():
        for method, operation in operations.items():
            assert "422" not in operation["responses"], path
            if method == "post" and "{" not in path:
                assert operation["requestBody"]["content"], path
                assert {"400", "401", "404", "413", "429", "503"} <= set(operation["responses"]), path
