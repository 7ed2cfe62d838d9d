"""TLS with certificates made here: the server's own, those that it asks callers for, and the gRPC client's side."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import httpx
import pytest
import trustme
from tests.client.fake_backend import NAME, FakeBackend
from tests.client.fake_triton import FakeTriton
from tests.client.served import served

from ingot.client import AsyncClient, Client, ClientOptions
from ingot.client.openai.serve import ServeOptions, TlsFiles, check_tls
from ingot.errors import IngotError, RequestError, UnavailableError


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def files(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    folder = tmp_path_factory.mktemp("tls")
    own = authority.issue_cert("127.0.0.1", "localhost")
    own.private_key_and_cert_chain_pem.write_to_path(str(folder / "own.pem"))
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    return TlsFiles(cert=folder / "own.pem", key=folder / "own.pem", ca=folder / "ca.pem")


@pytest.fixture(scope="module", params=[False, True], ids=["server", "both"])
def mutual(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def url(files: TlsFiles, mutual: bool) -> Iterator[str]:
    tls = files if mutual else replace(files, ca=None)
    with served(FakeBackend(), ServeOptions(tls=tls, log_level="warning")) as url:
        yield url


def trusting(authority: trustme.CA, *, shows: trustme.CA | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if shows is not None:
        shows.issue_cert("caller").configure_cert(context)
    return context


def test_an_answer_over_tls(url: str, authority: trustme.CA) -> None:
    with httpx.Client(base_url=url, verify=trusting(authority, shows=authority)) as http:
        reply = http.post("/v1/completions", json={"model": NAME, "prompt": "abc"})
        assert reply.json()["choices"][0]["text"] == "ABC"
    assert url.startswith("https://")


def test_a_stranger_is_not_trusted(url: str) -> None:
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(url + "/health")
    with pytest.raises(httpx.TransportError):
        httpx.get(url.replace("https", "http") + "/health")


def test_callers_show_a_certificate_where_they_are_asked_to(url: str, authority: trustme.CA, mutual: bool) -> None:
    for shows in (None, trustme.CA()):
        with httpx.Client(verify=trusting(authority, shows=shows)) as http:
            if mutual:
                with pytest.raises(httpx.TransportError):
                    http.get(url + "/health")
            else:
                assert http.get(url + "/health").status_code == 200


def test_files_that_are_no_certificate_are_said_before_anything_starts(files: TlsFiles, tmp_path: Path) -> None:
    (tmp_path / "junk.pem").write_text("junk")
    for broken in (replace(files, cert=tmp_path / "junk.pem"), replace(files, ca=tmp_path / "junk.pem")):
        with pytest.raises(IngotError, match="TLS files cannot be used"):
            check_tls(broken)


async def test_the_grpc_client_speaks_tls_and_shows_its_certificate(files: TlsFiles, authority: trustme.CA) -> None:
    own, root = files.cert.read_bytes(), authority.cert_pem.bytes()
    shown = authority.issue_cert("caller")
    secure = grpc.ssl_server_credentials([(own, own)], root_certificates=root, require_client_auth=True)
    chain = b"".join(blob.bytes() for blob in shown.cert_chain_pems)
    options = ClientOptions(
        tls=True, timeout=20, root_certificates=root, certificate=chain, private_key=shown.private_key_pem.bytes()
    )
    with FakeTriton(secure) as triton:
        with Client(triton.address, options) as client:
            assert client.generate("tiny", "abc")[0].text == "ABC"
        async with AsyncClient(triton.address, options) as client_too:
            assert (await client_too.generate("tiny", "abc"))[0].text == "ABC"
        for stranger in (ClientOptions(tls=True, retries=0, timeout=20), ClientOptions(retries=0, timeout=20)):
            with Client(triton.address, stranger) as client, pytest.raises(UnavailableError):
                client.generate("tiny", "abc")


def test_tls_options_that_do_not_fit_are_refused() -> None:
    for options in (ClientOptions(root_certificates=b"x"), ClientOptions(tls=True, certificate=b"x")):
        with pytest.raises(RequestError, match="do not fit together"):
            Client("localhost:1", options)
