"""Jobs, their recordings and their results: SQLite and a spool folder, made to outlive the process.

`JobStore` may be used from any thread, never from an event loop: each method waits for the disk.
What it promises: a job whose `add` has returned is done, or failed with a reason, although the process
be killed at any moment; each recording has at most one result; a name from outside never names a file.

A recording is tried `MAX_ATTEMPTS` times: an attempt is counted before it begins, so that one that ends the
process is counted too. Once an attempt has been cut short, the recording runs alone, lest it take the
attempts of others with it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from sensevoice.errors import (
    CrashingFileError,
    IdempotencyError,
    JobFileFailedError,
    JobNotFinishedError,
    JobNotFoundError,
    JobStoreError,
    QueueFullError,
    SenseVoiceError,
    StorageFullError,
)
from sensevoice.options import TranscribeOptions
from sensevoice.records import from_record, options_from_record, options_record, to_record
from sensevoice.strings import error_text
from sensevoice.transcript import Transcript

MAX_ATTEMPTS = 3
SCHEMA_VERSION = 1
BLOCK_BYTES = 2**20
BUSY_TIMEOUT_S = 10.0
ORPHAN_AGE_S = 3600.0  # a spool file that no job names may belong to a POST that is about to be stored
DELIVERY_LEASE_S = 120.0  # after a crash in the middle of an attempt, the next one
QUEUE_RETRY_S = 30
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
DATABASE_NAME, SPOOL_NAME, OWNER_NAME = "jobs.sqlite3", "spool", "owner.sqlite3"

# AUTOINCREMENT: an id must not come back, or a late result could reach another job's file
SCHEMA = """
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,            -- begins with the time, so that ids sort by age
    owner TEXT NOT NULL,
    state TEXT NOT NULL,
    created_s REAL NOT NULL,        -- seconds since 1970, as all times here
    started_s REAL,
    finished_s REAL,
    expires_s REAL,
    options TEXT NOT NULL,
    idempotency_key TEXT,
    fingerprint TEXT NOT NULL
);
CREATE UNIQUE INDEX jobs_by_key ON jobs (owner, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX jobs_by_expiry ON jobs (expires_s) WHERE expires_s IS NOT NULL;
CREATE INDEX jobs_by_owner ON jobs (owner, id);
CREATE TABLE files (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    position INTEGER NOT NULL,
    name TEXT NOT NULL,
    spool TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    done_s REAL NOT NULL DEFAULT 0,
    total_s REAL NOT NULL DEFAULT 0,
    error_type TEXT,
    error_message TEXT,
    UNIQUE (job_id, position)
);
CREATE INDEX files_unfinished ON files (state, id) WHERE state IN ('queued', 'running');
CREATE TABLE results (
    file_id INTEGER PRIMARY KEY REFERENCES files ON DELETE CASCADE,
    record TEXT NOT NULL
);
CREATE TABLE deliveries (
    job_id TEXT PRIMARY KEY REFERENCES jobs ON DELETE CASCADE,
    id TEXT NOT NULL,
    url TEXT NOT NULL,
    with_transcript INTEGER NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_s REAL,                    -- NULL until the job is finished, and after the last attempt
    error TEXT
);
CREATE INDEX deliveries_due ON deliveries (next_s) WHERE next_s IS NOT NULL;
"""


class State(str, Enum):
    """Of a job and of each of its files."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"  # of a job: every file is finished, and at least one has a result
    FAILED = "failed"  # of a job: no file has a result


class DeliveryState(str, Enum):
    """Of a job's webhook."""

    WAITING = "waiting"  # for the job to finish
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True)
class Upload:
    """A recording that lies in the spool folder; `name` is the client's word for it, `spool` ours."""

    name: str
    spool: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Webhook:
    """Where to say that a job is finished, and whether to say what was said in it."""

    url: str
    with_transcript: bool = False


@dataclass(frozen=True)
class NewJob:
    """One POST; `owner` is whoever may see the job, "" where callers have no names."""

    uploads: tuple[Upload, ...]
    options: TranscribeOptions = field(default_factory=TranscribeOptions)
    webhook: Webhook | None = None
    owner: str = ""
    idempotency_key: str | None = None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that was asked: equal for equal requests."""
        asked = {
            "files": [(upload.name, upload.size_bytes, upload.sha256) for upload in self.uploads],
            "options": options_record(self.options),
            "webhook": self.webhook and (self.webhook.url, self.webhook.with_transcript),
        }
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Fault:
    """Why a file has no result: the error's class and its sentence."""

    kind: str
    sentence: str

    @classmethod
    def of(cls, error: BaseException) -> Fault:
        """What a caller is told of `error`: nothing that gives away more than our own errors do."""
        if isinstance(error, SenseVoiceError):
            return cls(type(error).__name__, str(error))
        return cls("InternalError", error_text(error, "en"))


@dataclass(frozen=True)
class JobFile:
    """One recording of a job and how far it is; seconds of sound, 0 as long as they are unknown."""

    name: str
    size_bytes: int
    state: State
    attempts: int
    done_s: float
    total_s: float
    fault: Fault | None

    @property
    def progress(self) -> float:
        """From 0 to 1; 1 once it is finished, well or badly."""
        if self.state in (State.DONE, State.FAILED):
            return 1.0
        return min(self.done_s / self.total_s, 1.0) if self.total_s else 0.0


@dataclass(frozen=True)
class Delivery:
    """How far a webhook is."""

    id: str
    job_id: str
    webhook: Webhook
    state: DeliveryState
    attempts: int
    error: str | None


@dataclass(frozen=True)
class Job:
    """A job as it stands."""

    id: str
    owner: str
    state: State
    # seconds since 1970
    created_s: float
    started_s: float | None
    finished_s: float | None
    expires_s: float | None
    # what was asked, and what came of it
    options: TranscribeOptions
    files: tuple[JobFile, ...]
    delivery: Delivery | None

    @property
    def progress(self) -> float:
        """From 0 to 1; each recording counts the same, since lengths are unknown until they are read."""
        return sum(file.progress for file in self.files) / len(self.files)


@dataclass(frozen=True)
class Claim:
    """A file that is to be worked on now."""

    file_id: int
    job_id: str
    name: str
    path: Path
    options: TranscribeOptions
    attempt: int  # counting from 1


class JobStore:
    """The jobs of one folder. Several processes may share it, on a local disk (WAL needs shared memory).

    Raises StorageFullError if the disk is full and JobStoreError if the database cannot be used.
    """

    def __init__(
        self,
        directory: Path,
        *,
        ttl_s: float = 7 * 86_400.0,
        max_queued: int = 1_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.directory, self.ttl_s, self.max_queued, self.clock = directory, ttl_s, max_queued, clock
        self.spool = directory / SPOOL_NAME
        try:
            self.spool.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
        except OSError as error:
            raise JobStoreError(f"its folder cannot be written to ({error.strerror})") from error
        # one connection: an operation lasts milliseconds, most of it the disk's, so that threads lose
        # little by queueing for it, and threads that come and go leave no connections behind
        self._lock = threading.RLock()
        self._db = _open_database(directory / DATABASE_NAME)

    def close(self) -> None:
        """Close the database; the store is of no use afterwards."""
        with self._lock:
            self._db.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; takes the write lock at once, since a reader that turns writer may be refused."""
        with self._lock, _named_faults():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # a full disk has rolled back by itself
                    self._db.execute("ROLLBACK")
                raise

    def _rows(self, statement: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        with self._lock, _named_faults():
            return self._db.execute(statement, values).fetchall()

    # What comes in -------------------------------------------------------------------------------

    def receive(self, source: Path, name: str) -> Upload:
        """Move a recording to the spool folder and onto the disk; `name` is what the client calls it."""
        spool = secrets.token_hex(16)
        path = self.spool / spool
        try:
            with _named_faults():
                _move(source, path)
                size_bytes, sha256 = _settle(path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return Upload(name, spool, size_bytes, sha256)

    def discard(self, uploads: Iterable[Upload]) -> None:
        """Remove recordings that no job has taken."""
        self._unlink(upload.spool for upload in uploads)

    def add(self, new: NewJob) -> tuple[Job, bool]:
        """Store a job; or find the one that the same request has made before, with True.

        The uploads are the job's from now on: on a repetition and on an error they are removed. Raises
        IdempotencyError if the key is that of another request, QueueFullError.
        """
        try:
            with _named_faults():
                _sync_directory(self.spool)  # the names must be on the disk before the rows that hold them
            with self._transaction() as db:
                found = self._repeated(db, new)
                job_id = found or self._insert(db, new)
        except BaseException:
            self.discard(new.uploads)
            raise
        if found:
            self.discard(new.uploads)
        return self.get(job_id, new.owner), found is not None

    def _repeated(self, db: sqlite3.Connection, new: NewJob) -> str | None:
        """The job that this request has made before."""
        if new.idempotency_key is None:
            return None
        statement = "SELECT id, fingerprint FROM jobs WHERE owner = ? AND idempotency_key = ?"
        row = db.execute(statement, (new.owner, new.idempotency_key)).fetchone()
        if row and row["fingerprint"] != new.fingerprint:
            raise IdempotencyError(new.idempotency_key)
        return str(row["id"]) if row else None

    def _insert(self, db: sqlite3.Connection, new: NewJob) -> str:
        (waiting,) = db.execute("SELECT count(*) FROM files WHERE state = 'queued'").fetchone()
        if waiting + len(new.uploads) > self.max_queued:
            raise QueueFullError(waiting, QUEUE_RETRY_S)
        now_s = self.clock()
        job_id = f"{round(now_s * 1000):012x}{secrets.token_hex(10)}"
        options = json.dumps(options_record(new.options))
        values = (job_id, new.owner, now_s, options, new.idempotency_key, new.fingerprint)
        db.execute(
            "INSERT INTO jobs (id, owner, state, created_s, options, idempotency_key, fingerprint)"
            " VALUES (?, ?, 'queued', ?, ?, ?, ?)",
            values,
        )
        db.executemany(
            "INSERT INTO files (job_id, position, name, spool, size_bytes, state)"
            " VALUES (?, ?, ?, ?, ?, 'queued')",
            [(job_id, i, u.name, u.spool, u.size_bytes) for i, u in enumerate(new.uploads)],
        )
        if new.webhook:
            db.execute(
                "INSERT INTO deliveries (job_id, id, url, with_transcript, state)"
                " VALUES (?, ?, ?, ?, 'waiting')",
                (job_id, secrets.token_hex(16), new.webhook.url, new.webhook.with_transcript),
            )
        return job_id

    # What is told --------------------------------------------------------------------------------

    def get(self, job_id: str, owner: str = "") -> Job:
        """One job; JobNotFoundError if this owner has none of that id."""
        rows = self._rows("SELECT * FROM jobs WHERE id = ? AND owner = ?", (job_id, owner))
        if not rows:
            raise JobNotFoundError(job_id)
        return self._jobs(rows)[0]

    def page(
        self, owner: str = "", *, state: State | None = None, limit: int = 20, before: str = ""
    ) -> list[Job]:
        """Up to `limit` jobs, the youngest first, older than the job `before`, which may have gone."""
        statement = (
            "SELECT * FROM jobs WHERE owner = :owner AND (:state IS NULL OR state = :state)"
            " AND (:before = '' OR id < :before) ORDER BY id DESC LIMIT :limit"
        )
        values = {"owner": owner, "state": state and state.value, "before": before, "limit": limit}
        with self._lock:
            return self._jobs(self._rows(statement, values))  # type: ignore[arg-type]

    def _jobs(self, rows: Sequence[sqlite3.Row]) -> list[Job]:
        return [_job(row, self._file_rows(row["id"]), self._delivery(row["id"])) for row in rows]

    def _file_rows(self, job_id: str) -> list[sqlite3.Row]:
        return self._rows("SELECT * FROM files WHERE job_id = ? ORDER BY position", (job_id,))

    def _delivery(self, job_id: str) -> Delivery | None:
        rows = self._rows("SELECT * FROM deliveries WHERE job_id = ?", (job_id,))
        return _delivery(rows[0]) if rows else None

    def result(self, job_id: str, position: int = 0, owner: str = "") -> tuple[JobFile, Transcript]:
        """The transcript of one file.

        Raises JobNotFoundError, JobNotFinishedError, or JobFileFailedError if there will be none.
        """
        files = self.get(job_id, owner).files
        if not 0 <= position < len(files):
            raise JobNotFoundError(f"{job_id}, file {position}")
        file = files[position]
        if file.fault:
            raise JobFileFailedError(file.name, file.fault.kind, file.fault.sentence)
        if file.state is not State.DONE:
            raise JobNotFinishedError(file.name, file.state.value)
        statement = "SELECT record FROM results JOIN files ON file_id = id WHERE job_id = ? AND position = ?"
        rows = self._rows(statement, (job_id, position))
        if not rows:  # it has gone since
            raise JobNotFoundError(job_id)
        return file, from_record(rows[0]["record"])

    def waiting(self) -> int:
        """How many recordings wait for their turn, of all owners."""
        return int(self._rows("SELECT count(*) FROM files WHERE state = 'queued'")[0][0])

    # What is done --------------------------------------------------------------------------------

    def recover(self) -> int:
        """Put back what an ended process has left running; its number. Only for the owner of the work."""
        with self._transaction() as db:
            rows = db.execute("SELECT * FROM files WHERE state = 'running'").fetchall()
            spools = [self._put_back(db, row) for row in rows]
        self._unlink(filter(None, spools))
        return len(rows)

    def put_back(self, claim: Claim, fault: Fault | None = None) -> None:
        """Try a file again, unless this was its last attempt; then it fails with `fault`, or as crashing."""
        with self._transaction() as db:
            rows = db.execute("SELECT * FROM files WHERE id = ? AND state = 'running'", (claim.file_id,))
            spools = [self._put_back(db, row, fault) for row in rows.fetchall()]
        self._unlink(filter(None, spools))

    def _put_back(self, db: sqlite3.Connection, row: sqlite3.Row, fault: Fault | None = None) -> str | None:
        """Queue a file again, or give it up; then the name of its recording."""
        if row["attempts"] >= MAX_ATTEMPTS:
            self._finish(db, row["id"], fault or Fault.of(CrashingFileError(row["name"], row["attempts"])))
            return str(row["spool"])
        db.execute("UPDATE files SET state = 'queued', done_s = 0 WHERE id = ?", (row["id"],))
        return None

    def claim(self) -> Claim | None:
        """The next file in order of arrival, marked as running; None if nothing may be begun now."""
        with self._transaction() as db:
            row = db.execute(
                "SELECT f.*, j.options FROM files f JOIN jobs j ON j.id = f.job_id"
                " WHERE f.state = 'queued' ORDER BY f.id LIMIT 1"
            ).fetchone()
            if row is None or self._must_wait(db, row["attempts"]):
                return None
            db.execute(
                "UPDATE files SET state = 'running', attempts = attempts + 1 WHERE id = ?", (row["id"],)
            )
            db.execute(
                "UPDATE jobs SET state = 'running', started_s = ? WHERE id = ? AND state = 'queued'",
                (self.clock(), row["job_id"]),
            )
        return Claim(
            file_id=row["id"],
            job_id=row["job_id"],
            name=row["name"],
            path=self.spool / row["spool"],
            options=options_from_record(json.loads(row["options"])),
            attempt=row["attempts"] + 1,
        )

    def _must_wait(self, db: sqlite3.Connection, attempts: int) -> bool:
        """Whether one of the two, this file or one that runs, has been cut short before and must be alone."""
        running = [row[0] for row in db.execute("SELECT attempts FROM files WHERE state = 'running'")]
        return bool(running) and (attempts > 0 or max(running) > 1)

    def is_wanted(self, claim: Claim) -> bool:
        """Whether the job still exists."""
        return bool(self._rows("SELECT 1 FROM files WHERE id = ? AND state = 'running'", (claim.file_id,)))

    def report(self, claim: Claim, done_s: float, total_s: float) -> None:
        """Note how far the file is, in seconds of sound."""
        with self._transaction() as db:
            values = (done_s, total_s, claim.file_id)
            db.execute("UPDATE files SET done_s = ?, total_s = ? WHERE id = ? AND state = 'running'", values)

    def release(self, claim: Claim) -> None:
        """Put back a file whose work was broken off on purpose: the attempt does not count."""
        with self._transaction() as db:
            db.execute(
                "UPDATE files SET state = 'queued', attempts = attempts - 1, done_s = 0"
                " WHERE id = ? AND state = 'running'",
                (claim.file_id,),
            )

    def finish(self, claim: Claim, outcome: Transcript | Fault) -> bool:
        """Store what came of a file and remove its recording; False if its job has been deleted meanwhile."""
        with self._transaction() as db:
            wanted = self._finish(db, claim.file_id, outcome)
        claim.path.unlink(missing_ok=True)
        return wanted

    def _finish(self, db: sqlite3.Connection, file_id: int, outcome: Transcript | Fault) -> bool:
        fault = outcome if isinstance(outcome, Fault) else None
        state = State.FAILED if fault else State.DONE
        changed = db.execute(
            "UPDATE files SET state = ?, done_s = coalesce(?, done_s), total_s = coalesce(?, total_s),"
            " error_type = ?, error_message = ? WHERE id = ? AND state = 'running'",
            (
                state.value,
                *2 * (getattr(outcome, "duration_s", None),),
                fault and fault.kind,
                fault and fault.sentence,
                file_id,
            ),
        ).rowcount
        if changed and not isinstance(outcome, Fault):
            db.execute("INSERT INTO results (file_id, record) VALUES (?, ?)", (file_id, to_record(outcome)))
        if changed:
            self._finish_job(db, file_id)
        return bool(changed)

    def _finish_job(self, db: sqlite3.Connection, file_id: int) -> None:
        """Close the job if this was the last of its files; the webhook is due in the same transaction."""
        (job_id,) = db.execute("SELECT job_id FROM files WHERE id = ?", (file_id,)).fetchone()
        rows = db.execute("SELECT DISTINCT state FROM files WHERE job_id = ?", (job_id,))
        states = {row[0] for row in rows}
        if states & {"queued", "running"}:
            return
        now_s = self.clock()
        state = State.DONE if "done" in states else State.FAILED
        db.execute(
            "UPDATE jobs SET state = ?, finished_s = ?, expires_s = ? WHERE id = ?",
            (state.value, now_s, now_s + self.ttl_s, job_id),
        )
        db.execute("UPDATE deliveries SET state = 'pending', next_s = ? WHERE job_id = ?", (now_s, job_id))

    # What goes -----------------------------------------------------------------------------------

    def delete(self, job_id: str, owner: str = "") -> None:
        """Remove a job with all that belongs to it; work on it ends at its next report of progress."""
        with self._transaction() as db:
            rows = db.execute("SELECT spool FROM files WHERE job_id = ?", (job_id,)).fetchall()
            if not db.execute("DELETE FROM jobs WHERE id = ? AND owner = ?", (job_id, owner)).rowcount:
                raise JobNotFoundError(job_id)
        self._unlink(row[0] for row in rows)

    def sweep(self) -> int:
        """Remove what has expired, and recordings that no file waits for; the number of jobs removed."""
        with self._transaction() as db:
            expired = db.execute("DELETE FROM jobs WHERE expires_s <= ?", (self.clock(),)).rowcount
        if expired:  # give the space back, and leave no transcript in the log
            self._rows("PRAGMA incremental_vacuum")
            self._rows("PRAGMA wal_checkpoint(TRUNCATE)")
        self._unlink(self._orphans())
        return expired

    def _orphans(self) -> list[str]:
        """Recordings that are done with, left by a process that ended before it could remove them.

        One that no file names may be about to be stored, hence must be old.
        """
        names = [entry.name for entry in self.spool.iterdir()]
        rows = self._rows("SELECT spool FROM files WHERE state IN ('queued', 'running')")
        spare = set(names) - {row[0] for row in rows}
        return [name for name in spare if self._is_finished(name) or _age_s(self.spool / name) > ORPHAN_AGE_S]

    def _is_finished(self, spool: str) -> bool:
        """Asked by state: a file that was stored a moment ago has a row too, and needs its recording."""
        statement = "SELECT 1 FROM files WHERE spool = ? AND state IN ('done', 'failed')"
        return bool(self._rows(statement, (spool,)))

    def _unlink(self, spools: Iterable[str]) -> None:
        """Remove recordings; what cannot be removed now, the next sweep may."""
        for spool in spools:
            with contextlib.suppress(OSError):
                (self.spool / spool).unlink(missing_ok=True)

    # Webhooks ------------------------------------------------------------------------------------

    def claim_delivery(self) -> Delivery | None:
        """A webhook that is due; the attempt is counted and the next one set, lest this process end."""
        now_s = self.clock()
        with self._transaction() as db:
            row = db.execute(
                "SELECT * FROM deliveries WHERE next_s <= ? ORDER BY next_s LIMIT 1", (now_s,)
            ).fetchone()
            if row is None:
                return None
            db.execute(
                "UPDATE deliveries SET attempts = attempts + 1, next_s = ? WHERE job_id = ?",
                (now_s + DELIVERY_LEASE_S, row["job_id"]),
            )
        return _delivery(row, attempts=row["attempts"] + 1)

    def note_delivery(
        self, delivery: Delivery, state: DeliveryState, error: str | None = None, wait_s: float | None = None
    ) -> None:
        """Store how an attempt ended; `wait_s` is the time until the next one, None if there is none."""
        next_s = None if wait_s is None else self.clock() + wait_s
        with self._transaction() as db:
            db.execute(
                "UPDATE deliveries SET state = ?, error = ?, next_s = ? WHERE job_id = ?",
                (state.value, error, next_s, delivery.job_id),
            )

    def finished(self, job_id: str) -> Job:
        """The job of a webhook, whoever its owner is; JobNotFoundError if it has gone."""
        rows = self._rows("SELECT * FROM jobs WHERE id = ?", (job_id,))
        if not rows:
            raise JobNotFoundError(job_id)
        return self._jobs(rows)[0]


# Rows ---------------------------------------------------------------------------------------------


def _job(row: sqlite3.Row, files: Sequence[sqlite3.Row], delivery: Delivery | None) -> Job:
    return Job(
        id=row["id"],
        owner=row["owner"],
        state=State(row["state"]),
        created_s=row["created_s"],
        started_s=row["started_s"],
        finished_s=row["finished_s"],
        expires_s=row["expires_s"],
        options=options_from_record(json.loads(row["options"])),
        files=tuple(_file(file) for file in files),
        delivery=delivery,
    )


def _file(row: sqlite3.Row) -> JobFile:
    return JobFile(
        name=row["name"],
        size_bytes=row["size_bytes"],
        state=State(row["state"]),
        attempts=row["attempts"],
        done_s=row["done_s"],
        total_s=row["total_s"],
        fault=Fault(row["error_type"], row["error_message"]) if row["error_type"] else None,
    )


def _delivery(row: sqlite3.Row, attempts: int | None = None) -> Delivery:
    return Delivery(
        id=row["id"],
        job_id=row["job_id"],
        webhook=Webhook(row["url"], bool(row["with_transcript"])),
        state=DeliveryState(row["state"]),
        attempts=row["attempts"] if attempts is None else attempts,
        error=row["error"],
    )


# The database and the disk ------------------------------------------------------------------------


def _open_database(path: Path) -> sqlite3.Connection:
    """Open it, and make its tables if it is new; JobStoreError if it is a newer version's."""
    with _named_faults():
        db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        try:
            _prepare(db)
        except BaseException:
            db.close()
            raise
    return db


def _prepare(db: sqlite3.Connection) -> None:
    db.row_factory = sqlite3.Row
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # only heard before the first table is made
    db.execute("PRAGMA journal_mode = WAL")
    # FULL, not NORMAL: an id that a client has been given must outlive a power cut, not only a crash;
    # it costs one fsync for each job and each result
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("PRAGMA secure_delete = ON")  # a deleted transcript is overwritten
    db.execute("BEGIN IMMEDIATE")  # two processes may start at once
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version == 0:
        for statement in SCHEMA.split(";\n"):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    db.execute("COMMIT")
    if version > SCHEMA_VERSION:
        raise JobStoreError("it was made by a newer version of this program")


@contextlib.contextmanager
def _named_faults() -> Iterator[None]:
    """Turn the disk's and the database's faults into ours."""
    try:
        yield
    except sqlite3.Error as error:
        if "disk is full" in str(error):
            raise StorageFullError from error
        raise JobStoreError(str(error)) from error
    except OSError as error:
        if error.errno in NO_ROOM:
            raise StorageFullError from error
        raise


def _move(source: Path, path: Path) -> None:
    """Rename, or copy where that is not possible: to another disk, or of an open file on Windows."""
    try:
        source.rename(path)
    except OSError:
        with source.open("rb") as recording, path.open("xb") as copy:
            shutil.copyfileobj(recording, copy, BLOCK_BYTES)
    path.chmod(0o600)


def _settle(path: Path) -> tuple[int, str]:
    """Size and SHA-256 of a file, once it is on the disk for good."""
    digest, size_bytes = hashlib.sha256(), 0
    with path.open("r+b") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            size_bytes += len(block)
        os.fsync(file.fileno())
    return size_bytes, digest.hexdigest()


def _sync_directory(directory: Path) -> None:
    if os.name == "posix":  # elsewhere a directory cannot be opened
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _age_s(path: Path) -> float:
    """Seconds since it was last written to; 0 if it has gone."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
