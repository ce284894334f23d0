"""Telling another server that a job is finished: signed, tried again, and only to addresses that are public.

The receiver gets a POST with a JSON body and the headers

    SenseVoice-Signature: t=1767225600,v1=<HMAC-SHA256 of "1767225600." + body, in hexadecimal>
    SenseVoice-Delivery: <the same id in every attempt, to tell a repetition by>

and answers with any 2xx within `timeout_s`; `verify` is what it should do with the signature. Every other
answer, a redirect too, counts as a failure and is tried again, after a wait that doubles each time. The body
tells the job's state and its files', and holds a transcript only if the job was posted with
`webhook_transcript` (over https): an address can be mistyped, and what was said is private.

A name is resolved once. All of its addresses must be public, and the connection goes to the very address
that was checked, so that a name which changes its mind in between (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import logging
import random
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx

from sensevoice.errors import (
    JobError,
    JobFileFailedError,
    JobNotFoundError,
    StorageFullError,
    WebhookRefusedError,
)
from sensevoice.exporters import to_dict
from sensevoice.jobs import Delivery, DeliveryState, Job, JobStore, State, Webhook

log = logging.getLogger(__name__)

SIGNATURE, DELIVERY = "SenseVoice-Signature", "SenseVoice-Delivery"
TOLERANCE_S = 300.0  # how old a signature may be, against replays
LONGEST_WAIT_S = 3600.0
MAX_URL_LENGTH = 2_048
MAX_AT_ONCE = 16
POLL_S = 0.5
FAULTS = (JobError, StorageFullError, OSError)  # of the disk and the database: they may pass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], Awaitable[list[str]]]

_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address in its last 32 bits
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")  # all that is given out of IPv6, RFC 4291
# not public, although `is_global` says so in some versions of Python: protocols, 6to4 relays, documentation
_REFUSED = tuple(
    map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2001:db8::/32", "3fff::/20"))
)


# Signatures ---------------------------------------------------------------------------------------


def sign(secret: str, timestamp: int, body: bytes) -> str:
    """The value of the signature's header."""
    digest = hmac.new(secret.encode(), b"%d." % timestamp + body, hashlib.sha256)
    return f"t={timestamp},v1={digest.hexdigest()}"


def verify(
    secret: str, header: str, body: bytes, *, now_s: float | None = None, tolerance_s: float = TOLERANCE_S
) -> bool:
    """Whether `header` is the signature of `body`, and no older than `tolerance_s`; for receivers."""
    stamp = dict(part.partition("=")[::2] for part in header.split(",")).get("t", "")
    if not (stamp.isascii() and stamp.isdigit()):
        return False
    genuine = hmac.compare_digest(sign(secret, int(stamp), body).encode(), header.encode())
    return genuine and abs((time.time() if now_s is None else now_s) - int(stamp)) <= tolerance_s


# Addresses ----------------------------------------------------------------------------------------


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet; so must an IPv4 address be that lies inside it."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    return all(_is_public(one) for one in (ip, *_embedded(ip)))


def _is_public(ip: Address) -> bool:
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped or ip in _NAT64:
            return True  # it is what is inside that counts
        if ip not in _GLOBAL_UNICAST:
            return False
    if any(ip in network for network in _REFUSED):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def _embedded(ip: Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses to which a packet for an IPv6 address may be handed on."""
    if isinstance(ip, ipaddress.IPv4Address):
        return []
    found = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
    if ip in _NAT64:
        found.append(ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF))
    return [one for one in found if one is not None]


def check_webhook(webhook: Webhook, *, allow_private: bool = False) -> httpx.URL:
    """What can be said of a webhook without asking the network; raises WebhookRefusedError."""
    try:
        url = httpx.URL(webhook.url)
    except (httpx.InvalidURL, ValueError):
        raise WebhookRefusedError("it is no address") from None
    reason = _fault(url, webhook, allow_private)
    if reason:
        raise WebhookRefusedError(reason)
    return url


def _fault(url: httpx.URL, webhook: Webhook, allow_private: bool) -> str:
    if len(webhook.url) > MAX_URL_LENGTH:
        return f"its address is longer than {MAX_URL_LENGTH} characters"
    if url.scheme not in ("http", "https") or not url.host:
        return "its address must begin with https:// or http:// and a host"
    if url.port is not None and not 0 < url.port < 65_536:
        return "its port does not exist"
    if url.userinfo:
        return "its address must not hold a password"
    if webhook.with_transcript and url.scheme != "https" and not allow_private:
        return "a transcript is only sent over https"
    if not allow_private and _is_private_literal(url.host):
        return "its host is not a public address"
    return ""


def _is_private_literal(host: str) -> bool:
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False  # a name: its addresses are checked when it is sent to
    return not is_public(host)


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name, by the system's resolver."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


# One attempt --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sender:
    """How webhooks are sent."""

    secret: str
    allow_private: bool = False
    timeout_s: float = 15.0  # of a whole attempt, however slowly the other side answers
    resolver: Resolver = resolve
    verify: Any = True  # as httpx has it: which certificates are believed

    async def send(self, webhook: Webhook, delivery_id: str, body: bytes) -> None:
        """One attempt; WebhookRefusedError, OSError or httpx.HTTPError unless it is answered with a 2xx."""
        try:
            await asyncio.wait_for(self._send(webhook, delivery_id, body), self.timeout_s)
        except asyncio.TimeoutError:
            raise httpx.ReadTimeout(f"no answer within {self.timeout_s:g} s") from None

    async def _send(self, webhook: Webhook, delivery_id: str, body: bytes) -> None:
        url = check_webhook(webhook, allow_private=self.allow_private)
        address = await self._checked_address(url)
        headers = {
            "Host": url.netloc.decode("ascii"),
            "Content-Type": "application/json",
            "User-Agent": "SenseVoice-Studio",
            SIGNATURE: sign(self.secret, int(time.time()), body),
            DELIVERY: delivery_id,
        }
        # no proxy of the environment: it would resolve the name again, out of our sight
        async with (
            httpx.AsyncClient(
                follow_redirects=False, trust_env=False, timeout=self.timeout_s, verify=self.verify
            ) as client,
            client.stream(
                "POST",
                url.copy_with(host=address),
                content=body,
                headers=headers,
                extensions={
                    "sni_hostname": url.raw_host.decode("ascii")
                },  # the certificate must be the name's
            ) as answer,  # its body may be endless, and is not read
        ):
            if not answer.is_success:
                raise httpx.HTTPStatusError(
                    f"answered with {answer.status_code}", request=answer.request, response=answer
                )

    async def _checked_address(self, url: httpx.URL) -> str:
        port = url.port or (443 if url.scheme == "https" else 80)
        addresses = await self.resolver(url.raw_host.decode("ascii"), port)
        if not addresses:
            raise OSError("the name has no address")
        if not self.allow_private and not all(map(is_public, addresses)):
            raise WebhookRefusedError("its host is not a public address")
        return addresses[0]


# All of them --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Deliverer:
    """Sends what is due, from a thread and an event loop of its own; attempts are kept in the store."""

    store: JobStore
    sender: Sender
    attempts: int = 10
    backoff_s: float = 10.0

    def run(self, ending: threading.Event) -> None:
        """Deliver until `ending` is set."""
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs addresses, which may hold tokens
        asyncio.run(self._run(ending))

    async def _run(self, ending: threading.Event) -> None:
        running: set[asyncio.Task[None]] = set()
        while not ending.is_set():
            delivery = await self._next() if len(running) < MAX_AT_ONCE else None
            if delivery:
                running.add(asyncio.create_task(self._deliver(delivery)))
            else:
                await asyncio.sleep(POLL_S)
            running = {task for task in running if not task.done()}
        if running:
            await asyncio.wait(running)  # an attempt is short

    async def _next(self) -> Delivery | None:
        try:
            return await asyncio.to_thread(self.store.claim_delivery)
        except FAULTS as error:
            log.error("Webhooks cannot be read: %s", type(error).__name__)
            await asyncio.sleep(POLL_S)
            return None

    async def _deliver(self, delivery: Delivery) -> None:
        """One attempt, and what is to follow; a fault of the store leaves it to the next lease."""
        try:
            outcome = await self._attempt(delivery)
            await asyncio.to_thread(self.store.note_delivery, delivery, *outcome)
        except JobNotFoundError:
            return  # deleted meanwhile
        except FAULTS as error:
            log.error(
                "job %s: the webhook's state cannot be stored: %s", delivery.job_id, type(error).__name__
            )
        else:
            log.info("job %s: webhook %s, attempt %d", delivery.job_id, outcome[0].value, delivery.attempts)

    async def _attempt(self, delivery: Delivery) -> tuple[DeliveryState, str | None, float | None]:
        """State, error, and seconds until the next attempt."""
        body = await asyncio.to_thread(self._body, delivery)
        try:
            await self.sender.send(delivery.webhook, delivery.id, body)
        except WebhookRefusedError as error:
            return DeliveryState.FAILED, str(error), None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            reason = told(error)
        else:
            return DeliveryState.DELIVERED, None, None
        if delivery.attempts >= self.attempts:
            return DeliveryState.FAILED, reason, None
        return DeliveryState.PENDING, reason, wait_s(delivery.attempts, self.backoff_s)

    def _body(self, delivery: Delivery) -> bytes:
        job = self.store.finished(delivery.job_id)
        message: dict[str, object] = {"type": "job.finished", "id": delivery.id, "job": job_summary(job)}
        if delivery.webhook.with_transcript:
            message["transcripts"] = [self._transcript(job, i) for i in range(len(job.files))]
        return json.dumps(message, ensure_ascii=False).encode()

    def _transcript(self, job: Job, position: int) -> dict[str, object] | None:
        try:
            return to_dict(self.store.result(job.id, position, job.owner)[1])
        except JobFileFailedError:
            return None


def job_summary(job: Job) -> dict[str, object]:
    """A finished job without a word of what was said; times in seconds since 1970."""
    return {
        "id": job.id,
        "state": job.state.value,
        "created_at": job.created_s,
        "finished_at": job.finished_s,
        "files": [
            {
                "index": index,
                "name": file.name,
                "state": file.state.value,
                "duration_s": file.total_s if file.state is State.DONE else None,
                "error": file.fault and {"type": file.fault.kind, "message": file.fault.sentence},
            }
            for index, file in enumerate(job.files)
        ],
    }


def wait_s(attempts: int, backoff_s: float) -> float:
    """Seconds until the next attempt after so many: doubling, up to an hour, and half of it left to chance.

    Without chance, all that failed together would come back together.
    """
    longest_s = min(backoff_s * 2.0 ** min(attempts - 1, 30), LONGEST_WAIT_S)
    return longest_s * random.uniform(0.5, 1.0)


def told(error: Exception) -> str:
    """Why an attempt failed, without what the other side or the system said of it."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"It answered with {error.response.status_code}."
    if isinstance(error, httpx.TimeoutException):
        return "It did not answer in time."
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return "Its host cannot be found."
    return "It cannot be reached."
