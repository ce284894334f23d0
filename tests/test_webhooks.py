"""Webhooks: what is signed, where it may go, and how it is tried again."""

from __future__ import annotations

import asyncio
import datetime
import http.server
import ipaddress
import json
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes import SEGMENTS

from sensevoice import webhooks
from sensevoice.errors import WebhookRefusedError
from sensevoice.jobs import Delivery, DeliveryState, Fault, JobStore, NewJob, Webhook
from sensevoice.transcript import make_transcript
from sensevoice.webhooks import (
    LONGEST_WAIT_S,
    Deliverer,
    Sender,
    check_webhook,
    is_public,
    sign,
    verify,
    wait_s,
)

SECRET = "a secret of the tests"
TRANSCRIPT = make_transcript(SEGMENTS, duration_s=12.5, model="fake")

PRIVATE = [
    *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
    *("169.254.169.254", "100.64.0.1", "192.0.0.8", "192.0.2.1", "192.88.99.1", "198.18.0.1", "203.0.113.9"),
    *("224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "ff0e::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:0a00:1::1", "2001:db8::1"),
    *("2001::1", "3fff::1", "100::1", "4000::1", "not an address", ""),
]
PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]


class Receiver(http.server.ThreadingHTTPServer):
    """A server on loopback that answers with the given statuses, the last one for ever."""

    daemon_threads = True

    def __init__(self, statuses: list[int] | None = None, pause_s: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses, self.pause_s = statuses or [200], pause_s
        self.requests: list[tuple[dict[str, str], bytes, str]] = []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def url(self, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.server_address[1]}/hook?token=1"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.requests.append((dict(self.headers), body, self.path))
        time.sleep(self.server.pause_s)
        status = self.server.statuses[min(len(self.server.requests), len(self.server.statuses)) - 1]
        self.send_response(status)
        if status == 302:
            self.send_header("Location", self.server.url())
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Tests need no access log."""


@pytest.fixture
def receive() -> Iterator[Callable[..., Receiver]]:
    servers: list[Receiver] = []

    def start(*arguments: Any, **options: Any) -> Receiver:
        servers.append(Receiver(*arguments, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def resolving(*addresses: str) -> webhooks.Resolver:
    async def resolve(host: str, port: int) -> list[str]:
        return list(addresses)

    return resolve


def send(url: str, *, with_transcript: bool = False, **options: Any) -> None:
    sender = Sender(SECRET, **options)
    asyncio.run(sender.send(Webhook(url, with_transcript), "delivery-1", b'{"a": 1}'))


# Signatures ---------------------------------------------------------------------------------------


def test_the_signature_is_the_published_hmac_of_time_and_body() -> None:
    # printf '1767225600.{"a": 1}' | openssl dgst -sha256 -hmac key
    digest = "8846b96d66fb954c29b36884476f5f3d3b100671327bc4a938ab9a7eea573cae"
    signature = sign("key", 1_767_225_600, b'{"a": 1}')
    assert signature == f"t=1767225600,v1={digest}"
    assert verify("key", signature, b'{"a": 1}', now_s=1_767_225_600)


@pytest.mark.parametrize(
    ("secret", "header", "body", "now_s"),
    [
        ("other", None, b"body", 1000),
        (SECRET, None, b"bodY", 1000),
        (SECRET, None, b"body", 1301),
        (SECRET, None, b"body", 699),
        (SECRET, "t=1001,v1=" + "0" * 64, b"body", 1000),
        (SECRET, "", b"body", 1000),
        (SECRET, "t=²,v1=é", b"body", 1000),
    ],
)
def test_a_signature_of_something_else_or_of_another_time_is_not_believed(
    secret: str, header: str | None, body: bytes, now_s: float
) -> None:
    header = sign(SECRET, 1000, b"body") if header is None else header
    assert not verify(secret, header, body, now_s=now_s)


# Addresses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_of_the_public_internet_is_known(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://example.com/x", "must begin with"),
        ("example.com", "must begin with"),
        ("http:///x", "must begin with"),
        ("https://user:password@example.com", "password"),
        ("https://example.com/" + "a" * 2048, "longer than 2048"),
        ("http://localhost/x", "not a public address"),
        ("http://LOCALHOST./x", "not a public address"),
        ("http://a.localhost/x", "not a public address"),
        ("http://127.0.0.1:6006/x", "not a public address"),
        ("http://[::1]/x", "not a public address"),
        ("http://[::ffff:10.0.0.1]/x", "not a public address"),
        ("http://exa\nmple.com", "no address"),
        ("http://example.com:99999", "its port"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_when_the_job_is_posted(url: str, reason: str) -> None:
    with pytest.raises(WebhookRefusedError, match=reason):
        check_webhook(Webhook(url))


def test_a_transcript_is_only_sent_over_https() -> None:
    check_webhook(Webhook("https://example.com", with_transcript=True))
    check_webhook(Webhook("http://example.com", with_transcript=False))
    with pytest.raises(WebhookRefusedError, match="only sent over https"):
        check_webhook(Webhook("http://example.com", with_transcript=True))


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.0.0.1", "fd00::1", "224.0.0.1"]
)
def test_a_name_that_leads_to_a_private_address_is_refused_and_nothing_is_sent(
    receive: Callable[..., Receiver], address: str
) -> None:
    server = receive()
    for addresses in ((address,), ("8.8.8.8", address)):
        with pytest.raises(WebhookRefusedError, match="not a public address"):
            send(server.url("rebound.example"), resolver=resolving(*addresses))
    assert server.requests == []


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "017700000001"])
def test_an_address_in_disguise_is_refused_by_what_the_system_makes_of_it(
    receive: Callable[..., Receiver], host: str
) -> None:
    server = receive()
    with pytest.raises((WebhookRefusedError, OSError)):
        send(server.url(host))
    assert server.requests == []


def test_a_name_is_resolved_once_and_the_connection_goes_to_what_was_checked(
    receive: Callable[..., Receiver],
) -> None:
    server, asked = receive(), []

    async def rebinding(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return ["127.0.0.1"]

    url = server.url("no-such-host.invalid")  # only the address can have been connected to
    send(url, resolver=rebinding, allow_private=True)
    ((headers, body, path),) = server.requests
    assert asked == [("no-such-host.invalid", server.server_address[1])]
    assert headers["Host"] == f"no-such-host.invalid:{server.server_address[1]}"
    assert (body, path) == (b'{"a": 1}', "/hook?token=1")
    assert verify(SECRET, headers["SenseVoice-Signature"], body)
    assert headers["SenseVoice-Delivery"] == "delivery-1"


def certificate(directory: Path, name: str) -> Path:
    """A certificate of `name`, signed by itself, with its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / f"{name}.pem"
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, *form)
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


def test_over_https_the_certificate_must_be_that_of_the_name_not_of_the_address(
    receive: Callable[..., Receiver], tmp_path: Path
) -> None:
    pytest.importorskip("cryptography")
    file = certificate(tmp_path, "hooks.example")
    server, asked = receive(), []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    context.sni_callback = lambda _, name, __: asked.append(name)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    trusting = ssl.create_default_context(cafile=str(file))
    options = {"resolver": resolving("127.0.0.1"), "allow_private": True, "verify": trusting}
    send(server.url("hooks.example", "https"), **options)
    assert asked == ["hooks.example"]
    with pytest.raises(httpx.ConnectError, match=r"[Hh]ostname"):
        send(server.url("other.example", "https"), **options)
    assert len(server.requests) == 1


def test_a_redirect_is_a_failure_and_not_followed(receive: Callable[..., Receiver]) -> None:
    server = receive([302, 200])
    with pytest.raises(httpx.HTTPStatusError):
        send(server.url(), allow_private=True)
    assert len(server.requests) == 1


def test_a_proxy_of_the_environment_is_not_used(
    receive: Callable[..., Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    server = receive()
    send(server.url(), allow_private=True)
    assert len(server.requests) == 1


def test_an_answer_that_takes_too_long_is_not_waited_for(receive: Callable[..., Receiver]) -> None:
    server = receive(pause_s=2.0)
    start = time.monotonic()
    with pytest.raises(httpx.TimeoutException):
        send(server.url(), allow_private=True, timeout_s=0.3)
    assert time.monotonic() - start < 1.5


# Attempts -----------------------------------------------------------------------------------------


def test_the_wait_doubles_up_to_an_hour_and_is_left_half_to_chance() -> None:
    for attempts, longest_s in ((1, 10), (2, 20), (5, 160), (10, 3600), (500, 3600)):
        waits = [wait_s(attempts, 10.0) for _ in range(200)]
        assert longest_s / 2 <= min(waits) < max(waits) <= min(longest_s, LONGEST_WAIT_S)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore(tmp_path / "jobs")
    yield store
    store.close()


def finished_job(store: JobStore, webhook: Webhook) -> str:
    """A job of two files, one of which failed."""
    uploads = []
    for name in ("a.wav", "b.wav"):
        (store.directory / name).write_bytes(b"RIFF")
        uploads.append(store.receive(store.directory / name, name))
    job, _ = store.add(NewJob(tuple(uploads), webhook=webhook, owner="me"))
    for outcome in (TRANSCRIPT, Fault("NotAudioError", "b.wav cannot be read.")):
        claim = store.claim()
        assert claim
        store.finish(claim, outcome)
    return job.id


def delivery_of(store: JobStore, job_id: str) -> Delivery:
    delivery = store.get(job_id, "me").delivery
    assert delivery
    return delivery


class Delivering:
    """A deliverer at work in a thread, until the block ends."""

    def __init__(self, store: JobStore, attempts: int = 4, **sender: Any) -> None:
        options = {"allow_private": True, "timeout_s": 2.0, **sender}
        self.deliverer = Deliverer(store, Sender(SECRET, **options), attempts, backoff_s=0.02)
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.deliverer.run, args=(self.ending,))

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.fixture(autouse=True)
def _quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "POLL_S", 0.02)


def wait_until(store: JobStore, job_id: str, state: DeliveryState) -> Delivery:
    deadline = time.monotonic() + 10
    while (delivery := delivery_of(store, job_id)).state is not state:
        assert time.monotonic() < deadline, delivery
        time.sleep(0.01)
    return delivery


def test_a_finished_job_is_told_once_without_a_word_of_what_was_said(
    store: JobStore, receive: Callable[..., Receiver], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = receive()
    job_id = finished_job(store, Webhook(server.url()))
    with Delivering(store):
        delivery = wait_until(store, job_id, DeliveryState.DELIVERED)
        time.sleep(0.1)
    ((headers, body, _),) = server.requests
    assert verify(SECRET, headers["SenseVoice-Signature"], body)
    message = json.loads(body)
    assert (message["type"], message["id"]) == ("job.finished", delivery.id)
    assert (message["job"]["id"], message["job"]["state"]) == (job_id, "done")
    assert message["job"]["files"] == [
        {"index": 0, "name": "a.wav", "state": "done", "duration_s": 12.5, "error": None},
        {
            **{"index": 1, "name": "b.wav", "state": "failed", "duration_s": None},
            "error": {"type": "NotAudioError", "message": "b.wav cannot be read."},
        },
    ]
    assert "公园" not in body.decode() + caplog.text
    assert SECRET not in caplog.text
    assert "token" not in caplog.text


def test_the_transcripts_are_in_it_if_that_was_asked(
    store: JobStore, receive: Callable[..., Receiver]
) -> None:
    server = receive()
    job_id = finished_job(store, Webhook(server.url(), with_transcript=True))
    with Delivering(store):
        wait_until(store, job_id, DeliveryState.DELIVERED)
    first, second = json.loads(server.requests[0][1])["transcripts"]
    assert first["text"] == TRANSCRIPT.text
    assert second is None


def test_a_failure_is_tried_again_with_the_same_id_until_it_succeeds(
    store: JobStore, receive: Callable[..., Receiver]
) -> None:
    server = receive([500, 302, 204])
    job_id = finished_job(store, Webhook(server.url()))
    with Delivering(store):
        delivery = wait_until(store, job_id, DeliveryState.DELIVERED)
    assert (delivery.attempts, delivery.error) == (3, None)
    assert {headers["SenseVoice-Delivery"] for headers, _, _ in server.requests} == {delivery.id}
    assert len({body for _, body, _ in server.requests}) == 1


def test_what_never_succeeds_is_given_up_after_the_last_attempt(
    store: JobStore, receive: Callable[..., Receiver]
) -> None:
    server = receive([503])
    job_id = finished_job(store, Webhook(server.url()))
    with Delivering(store, attempts=3):
        delivery = wait_until(store, job_id, DeliveryState.FAILED)
        time.sleep(0.15)
    assert (delivery.attempts, delivery.error) == (3, "It answered with 503.")
    assert len(server.requests) == 3


def test_a_refused_address_is_given_up_at_once(store: JobStore) -> None:
    job_id = finished_job(store, Webhook("https://rebound.example"))
    with Delivering(store, allow_private=False, resolver=resolving("169.254.169.254")):
        delivery = wait_until(store, job_id, DeliveryState.FAILED)
    assert (delivery.attempts, "not a public address" in str(delivery.error)) == (1, True)


def test_attempts_survive_a_restart(store: JobStore, receive: Callable[..., Receiver]) -> None:
    server = receive([500, 500, 200])
    job_id = finished_job(store, Webhook(server.url()))
    with Delivering(store):
        while delivery_of(store, job_id).error is None:
            time.sleep(0.005)
    attempts = delivery_of(store, job_id).attempts
    assert attempts >= 1
    again = JobStore(store.directory)
    with Delivering(again):
        wait_until(again, job_id, DeliveryState.DELIVERED)
    assert delivery_of(again, job_id).attempts == 3
    again.close()


def test_an_attempt_in_the_middle_of_which_the_process_ended_is_repeated_after_its_lease(
    tmp_path: Path,
) -> None:
    now = [1000.0]
    store = JobStore(tmp_path / "jobs", clock=lambda: now[0])
    finished_job(store, Webhook("https://example.com"))
    first = store.claim_delivery()
    assert first and first.attempts == 1
    assert store.claim_delivery() is None
    now[0] += 121
    second = store.claim_delivery()
    assert second and (second.id, second.attempts) == (first.id, 2)
    store.close()


def test_a_slow_receiver_does_not_hold_up_the_others(
    store: JobStore, receive: Callable[..., Receiver]
) -> None:
    slow, quick = receive(pause_s=1.0), receive()
    slow_id = finished_job(store, Webhook(slow.url()))
    quick_id = finished_job(store, Webhook(quick.url()))
    with Delivering(store):
        wait_until(store, quick_id, DeliveryState.DELIVERED)
        assert delivery_of(store, slow_id).state is DeliveryState.PENDING
        wait_until(store, slow_id, DeliveryState.DELIVERED)


def test_deleting_a_job_also_deletes_its_webhook(store: JobStore) -> None:
    job_id = finished_job(store, Webhook("https://example.com"))
    store.delete(job_id, "me")
    assert store.claim_delivery() is None


def test_an_ipv6_address_is_connected_to() -> None:
    class Server6(Receiver):
        address_family = 10  # AF_INET6

        def __init__(self) -> None:
            self.statuses, self.pause_s, self.requests = [200], 0.0, []
            http.server.ThreadingHTTPServer.__init__(self, ("::1", 0), _Handler)
            threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    try:
        server = Server6()
    except OSError:
        pytest.skip("no IPv6 here")
    send(f"http://six.example:{server.server_address[1]}", resolver=resolving("::1"), allow_private=True)
    assert len(server.requests) == 1
    server.shutdown()
    server.server_close()
    assert ipaddress.ip_address("::1").is_loopback
