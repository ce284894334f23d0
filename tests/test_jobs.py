"""The store of jobs and the threads that work on them: what survives what."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import SEGMENTS, SKIPPED, FakeTranscriber

from sensevoice import jobs
from sensevoice.errors import (
    IdempotencyError,
    JobFileFailedError,
    JobNotFinishedError,
    JobNotFoundError,
    JobStoreError,
    NoSuchAudioError,
    NotAudioError,
    QueueFullError,
    StorageFullError,
)
from sensevoice.job_worker import JobWorker, ownership
from sensevoice.jobs import MAX_ATTEMPTS, Fault, Job, JobStore, NewJob, State, Upload, Webhook
from sensevoice.options import TranscribeOptions, VadOptions
from sensevoice.records import from_record, to_record
from sensevoice.tags import TAGS, Tag, TagKind
from sensevoice.transcript import Transcript, make_transcript

TESTS = Path(__file__).parent
WAV = b"RIFF" + bytes(100)
TRANSCRIPT = make_transcript(SEGMENTS, duration_s=12.5, skipped=SKIPPED, model="fake-starter")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore(tmp_path / "jobs")
    yield store
    store.close()


@pytest.fixture
def working() -> Iterator[Callable[..., JobWorker]]:
    """Starts workers, and stops them after the test."""
    workers: list[JobWorker] = []

    def start(store: JobStore, transcriber: Any, **options: Any) -> JobWorker:
        workers.append(JobWorker(store, transcriber, **options))
        workers[-1].start()
        return workers[-1]

    yield start
    for worker in workers:
        worker.stop(0)


def spooled(store: JobStore, content: bytes = WAV, name: str = "clip.wav") -> Upload:
    source = store.directory.parent / f"upload-{time.monotonic_ns()}"
    source.write_bytes(content)
    return store.receive(source, name)


def add(store: JobStore, *contents: bytes, **fields: Any) -> Job:
    uploads = tuple(spooled(store, content, f"{i}.wav") for i, content in enumerate(contents or (WAV,)))
    return store.add(NewJob(uploads, **fields))[0]


def wait_for(condition: Callable[[], object], timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def finished(store: JobStore, job: Job) -> Job:
    wait_for(lambda: store.get(job.id).finished_s)
    return store.get(job.id)


def spool_files(store: JobStore) -> list[str]:
    return sorted(path.name for path in store.spool.iterdir())


# Records ------------------------------------------------------------------------------------------


def test_a_transcript_comes_back_from_its_record_unchanged() -> None:
    options = TranscribeOptions(
        language="en",
        allowed_languages=("en", "zh"),
        max_duration_s=float("inf"),
        vad=VadOptions(max_end_silence_time_ms=None),
    )
    custom = Tag("SPECIAL_TOKEN_1", TagKind.CUSTOM, "铃声", "Ring", aliases=("bell",), given_name="Ring")
    for transcript in (TRANSCRIPT, replace(TRANSCRIPT, options=options, tags=(*TAGS, custom))):
        assert from_record(to_record(transcript)) == transcript


# The store ----------------------------------------------------------------------------------------


def test_a_job_is_stored_with_what_was_asked(store: JobStore) -> None:
    options = TranscribeOptions(language="yue", emotion_threshold=0.25)
    job = add(store, WAV, b"fLaC", options=options, webhook=Webhook("https://example.com/x", True))
    assert store.get(job.id) == job
    assert (job.state, job.progress, job.options) == (State.QUEUED, 0.0, options)
    assert [(file.name, file.size_bytes) for file in job.files] == [("0.wav", 104), ("1.wav", 4)]
    assert job.delivery and job.delivery.webhook == Webhook("https://example.com/x", True)


def test_the_database_is_as_durable_as_promised(store: JobStore) -> None:
    def pragma(name: str) -> Any:
        return store._db.execute(f"PRAGMA {name}").fetchone()[0]

    assert (pragma("journal_mode"), pragma("synchronous"), pragma("busy_timeout")) == ("wal", 2, 10_000)
    assert (pragma("foreign_keys"), pragma("secure_delete"), pragma("auto_vacuum")) == (1, 1, 2)
    assert pragma("user_version") == jobs.SCHEMA_VERSION


def test_a_recording_lies_under_a_random_name_that_only_we_may_read(store: JobStore) -> None:
    upload = spooled(store, name="../../etc/passwd")
    (path,) = store.spool.iterdir()
    assert path.name == upload.spool
    assert len(upload.spool) == 32
    assert (path.stat().st_mode & 0o777, store.directory.stat().st_mode & 0o777) == (0o600, 0o700)
    assert path.read_bytes() == WAV


def test_an_upload_from_another_disk_is_copied(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "another disk")

    monkeypatch.setattr(Path, "rename", refuse)
    upload = spooled(store)
    assert (store.spool / upload.spool).read_bytes() == WAV
    assert upload.size_bytes == len(WAV)


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    JobStore(tmp_path).close()
    db = sqlite3.connect(tmp_path / jobs.DATABASE_NAME)
    db.execute(f"PRAGMA user_version = {jobs.SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(JobStoreError, match="newer version"):
        JobStore(tmp_path)


def test_a_file_that_is_no_database_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / jobs.DATABASE_NAME).write_bytes(b"not a database" * 100)
    with pytest.raises(JobStoreError, match="file is not a database"):
        JobStore(tmp_path)


def test_the_same_request_with_the_same_key_gives_the_same_job(store: JobStore) -> None:
    first = add(store, idempotency_key="order-7")
    again, repeated = store.add(NewJob((spooled(store, WAV, "0.wav"),), idempotency_key="order-7"))
    assert (again, repeated) == (first, True)
    assert len(spool_files(store)) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"options": TranscribeOptions(language="ko")},
        {"webhook": Webhook("https://example.com")},
        {"contents": (b"RIFF other",)},
        {"contents": (WAV, WAV)},
    ],
    ids=["options", "webhook", "content", "files"],
)
def test_another_request_with_the_same_key_is_refused_and_leaves_nothing(
    store: JobStore, other: dict[str, Any]
) -> None:
    add(store, idempotency_key="order-7")
    with pytest.raises(IdempotencyError, match="order-7"):
        add(store, *other.pop("contents", ()), idempotency_key="order-7", **other)
    assert len(spool_files(store)) == 1


def test_a_key_belongs_to_its_owner(store: JobStore) -> None:
    mine = add(store, idempotency_key="1", owner="me")
    yours = add(store, b"RIFF other", idempotency_key="1", owner="you")
    assert mine.id != yours.id
    with pytest.raises(JobNotFoundError):
        store.get(mine.id, "you")
    with pytest.raises(JobNotFoundError):
        store.delete(mine.id, "you")
    assert [job.id for job in store.page("me")] == [mine.id]


def test_twenty_equal_requests_at_once_make_one_job(store: JobStore) -> None:
    uploads = [spooled(store, WAV, "0.wav") for _ in range(20)]
    found: list[tuple[str, bool]] = []

    def post(upload: Upload) -> None:
        job, repeated = store.add(NewJob((upload,), idempotency_key="k"))
        found.append((job.id, repeated))

    threads = [threading.Thread(target=post, args=(upload,)) for upload in uploads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({job_id for job_id, _ in found}) == 1
    assert [repeated for _, repeated in found].count(False) == 1
    assert len(spool_files(store)) == 1


def test_a_full_queue_refuses_and_keeps_nothing(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs", max_queued=2)
    add(store, WAV, WAV)
    with pytest.raises(QueueFullError):
        add(store)
    assert len(spool_files(store)) == 2
    store.close()


def test_jobs_are_paged_from_the_youngest_and_filtered_by_state(store: JobStore) -> None:
    ids = []
    for _ in range(5):
        ids.append(add(store).id)
        time.sleep(0.002)  # ids of one millisecond are in no order
    ids.reverse()
    assert [job.id for job in store.page(limit=2)] == ids[:2]
    assert [job.id for job in store.page(limit=2, before=ids[1])] == ids[2:4]
    store.delete(ids[3])
    assert [job.id for job in store.page(limit=2, before=ids[3])] == ids[4:]
    claim = store.claim()
    assert claim and claim.job_id == ids[4]
    assert [job.id for job in store.page(state=State.RUNNING)] == [ids[4]]


def test_a_disk_that_fills_up_while_a_job_is_stored_leaves_nothing_behind(store: JobStore) -> None:
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageFullError):
        for _ in range(100):
            add(store, *[WAV] * 10)
    kept = len(store.page(limit=1000))
    assert len(spool_files(store)) == 10 * kept
    store._db.execute(f"PRAGMA max_page_count = {pages * 100}")
    add(store)
    assert len(store.page(limit=1000)) == kept + 1


def test_a_disk_that_fills_up_while_a_recording_is_stored_is_named(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFullError):
        spooled(store)
    assert spool_files(store) == []


def test_what_has_expired_goes_with_its_transcripts(tmp_path: Path) -> None:
    now = [1_000_000.0]
    store = JobStore(tmp_path / "jobs", ttl_s=60, clock=lambda: now[0])
    done, waiting = add(store), add(store)
    claim = store.claim()
    assert claim and store.finish(claim, TRANSCRIPT)
    assert store.get(done.id).expires_s == 1_000_060
    now[0] += 59.9
    assert store.sweep() == 0
    now[0] += 0.1
    assert store.sweep() == 1
    assert [job.id for job in store.page()] == [waiting.id]
    assert store._rows("SELECT * FROM results") == []
    store.close()
    assert "公园".encode() not in (tmp_path / "jobs" / jobs.DATABASE_NAME).read_bytes()


def test_recordings_that_no_job_waits_for_are_swept_once_they_are_old(store: JobStore) -> None:
    add(store)
    fresh, stale = spooled(store), spooled(store)
    os.utime(store.spool / stale.spool, (0, 0))
    (needed,) = {*spool_files(store)} - {fresh.spool, stale.spool}
    os.utime(store.spool / needed, (0, 0))
    store.sweep()
    assert spool_files(store) == sorted([needed, fresh.spool])


def test_a_recording_that_outlived_its_result_is_swept_at_once(store: JobStore) -> None:
    add(store)
    (path,) = store.spool.iterdir()
    claim = store.claim()
    assert claim
    store.finish(claim, TRANSCRIPT)
    path.write_bytes(WAV)  # as if the process had been killed in between
    store.sweep()
    assert spool_files(store) == []


def test_a_recording_whose_job_is_stored_during_a_sweep_stays(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload, real = spooled(store), store._rows

    def store_in_between(statement: str, values: Any = ()) -> list[sqlite3.Row]:
        rows = real(statement, values)
        if statement.startswith("SELECT spool"):
            store.add(NewJob((upload,)))
        return rows

    monkeypatch.setattr(store, "_rows", store_in_between)
    store.sweep()
    assert spool_files(store) == [upload.spool]


def test_a_result_is_there_once_and_only_when_it_is(store: JobStore) -> None:
    job = add(store, WAV, b"noise")
    with pytest.raises(JobNotFinishedError, match="still queued"):
        store.result(job.id)
    first, second = store.claim(), store.claim()
    assert first and second
    assert store.finish(first, TRANSCRIPT) is True
    assert store.finish(first, TRANSCRIPT) is False
    store.finish(second, Fault("NotAudioError", "1.wav cannot be read."))
    assert store.result(job.id)[1] == TRANSCRIPT
    with pytest.raises(JobFileFailedError, match="NotAudioError"):
        store.result(job.id, 1)
    with pytest.raises(JobNotFoundError):
        store.result(job.id, 2)
    assert store.get(job.id).state is State.DONE
    assert spool_files(store) == []


def test_a_file_that_was_cut_short_runs_alone(store: JobStore) -> None:
    add(store, WAV, WAV, WAV)
    first, second = store.claim(), store.claim()
    assert first and second
    store.recover()
    alone = store.claim()
    assert alone and (alone.file_id, alone.attempt) == (first.file_id, 2)
    assert store.claim() is None
    store.finish(alone, TRANSCRIPT)
    again = store.claim()
    assert again and (again.file_id, again.attempt) == (second.file_id, 2)


def test_an_attempt_that_was_broken_off_on_purpose_does_not_count(store: JobStore) -> None:
    job = add(store)
    for _ in range(MAX_ATTEMPTS + 2):
        claim = store.claim()
        assert claim and claim.attempt == 1
        store.release(claim)
    assert store.get(job.id).files[0].attempts == 0


def test_the_work_has_one_owner_at_a_time(tmp_path: Path) -> None:
    with ownership(tmp_path) as first, ownership(tmp_path) as second:
        assert (first, second) == (True, False)
    with ownership(tmp_path) as third:
        assert third is True


# The worker ---------------------------------------------------------------------------------------


def test_a_job_is_worked_on_and_the_fault_of_one_file_is_its_own(
    store: JobStore, working: Callable[..., JobWorker], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    working(store, FakeTranscriber())
    job = finished(store, add(store, WAV, b"no audio at all", WAV))
    assert (job.state, job.progress) == (State.DONE, 1.0)
    assert [file.state for file in job.files] == [State.DONE, State.FAILED, State.DONE]
    fault = job.files[1].fault
    assert fault and fault.kind == "NotAudioError"
    assert fault.sentence.startswith("1.wav cannot be read as a recording.")
    assert store.result(job.id, 2)[1] == TRANSCRIPT
    wait_for(lambda: spool_files(store) == [])
    assert "公园" not in caplog.text


def test_a_job_of_which_every_file_fails_has_failed(
    store: JobStore, working: Callable[..., JobWorker], caplog: pytest.LogCaptureFixture
) -> None:
    fake = FakeTranscriber()
    fake.error = ZeroDivisionError("the words were 公园")
    working(store, fake)
    job = finished(store, add(store))
    assert job.state is State.FAILED
    assert job.files[0].fault and job.files[0].fault.kind == "InternalError"
    assert "公园" not in caplog.text + job.files[0].fault.sentence
    assert "in _check" in caplog.text


def test_a_recording_that_has_vanished_is_a_fault_of_its_file(
    store: JobStore, working: Callable[..., JobWorker]
) -> None:
    job = add(store)
    next(store.spool.iterdir()).unlink()
    working(store, FakeTranscriber())
    assert finished(store, job).files[0].fault == Fault.of(NoSuchAudioError("0.wav"))


def test_progress_is_told_while_a_job_runs_and_deleting_it_stops_it_soon(
    store: JobStore, working: Callable[..., JobWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sensevoice.job_worker.REPORT_S", 0.0)
    slow = FakeTranscriber(pause_s=0.05, segments=SEGMENTS * 50)
    job = add(store)
    working(store, slow)
    wait_for(lambda: 0 < store.get(job.id).progress < 1)
    assert store.get(job.id).state is State.RUNNING
    assert store.get(job.id).files[0].total_s == 12.5
    store.delete(job.id)
    time.sleep(0.2)
    reports = slow.reports
    time.sleep(0.2)
    assert slow.reports == reports < len(slow.segments)
    assert spool_files(store) == []
    with pytest.raises(JobNotFoundError):
        store.get(job.id)


class Endless(FakeTranscriber):
    """Reads on and on, as a decoder does that a recording has led astray; and hides why it was stopped."""

    def _check(self, source: Any) -> None:
        while True:
            time.sleep(0.01)
            try:
                source.read(1)
            except Exception as error:
                raise NotAudioError("the recording") from error


def test_a_recording_that_cannot_be_decoded_in_time_is_named(
    store: JobStore, working: Callable[..., JobWorker]
) -> None:
    outcomes: list[Any] = []
    working(store, Endless(), decode_timeout_s=0.1, observe=outcomes.append)
    job = finished(store, add(store))
    assert job.files[0].fault and job.files[0].fault.kind == "DecodeTimeoutError"
    wait_for(lambda: outcomes == [job.files[0].fault])


def test_a_job_that_is_deleted_while_its_recording_is_read_stops_soon(
    store: JobStore, working: Callable[..., JobWorker]
) -> None:
    endless, outcomes = Endless(), []
    working(store, endless, observe=outcomes.append)
    first, second = add(store), add(store)
    wait_for(lambda: endless.asked)
    store.delete(first.id)
    wait_for(lambda: len(endless.asked) == 2, 2.0)
    assert store.get(second.id).state is State.RUNNING
    assert outcomes == []


def test_out_of_memory_is_tried_again_and_then_named(
    store: JobStore, working: Callable[..., JobWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sensevoice.job_worker.RETRY_S", 0.0)
    fake = FakeTranscriber()
    fake.error = MemoryError()
    working(store, fake)
    job = finished(store, add(store))
    assert len(fake.asked) == MAX_ATTEMPTS
    assert job.files[0].fault and job.files[0].fault.kind == "MemoryFullError"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_is_replaced_and_its_file_tried_again(
    store: JobStore, working: Callable[..., JobWorker]
) -> None:
    class Fatal(FakeTranscriber):
        def _check(self, source: Any) -> None:
            if len(self.asked) == 1:
                raise GeneratorExit

    fake = Fatal()
    working(store, fake)
    assert finished(store, add(store)).state is State.DONE
    assert len(fake.asked) == 2


def test_a_result_that_finds_the_disk_full_is_kept_until_there_is_room(
    store: JobStore, working: Callable[..., JobWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sensevoice.job_worker.RETRY_S", 0.01)
    real, failures = store.finish, iter(range(3))

    def finish(*arguments: Any) -> bool:
        if next(failures, None) is not None:
            raise StorageFullError
        return real(*arguments)

    monkeypatch.setattr(store, "finish", finish)
    fake = FakeTranscriber()
    working(store, fake)
    assert finished(store, add(store)).state is State.DONE
    assert len(fake.asked) == 1


def test_stopping_finishes_what_runs_within_the_grace_time(
    store: JobStore, working: Callable[..., JobWorker]
) -> None:
    job, later = add(store), add(store)
    slow = FakeTranscriber(pause_s=0.05)
    worker = working(store, slow)
    wait_for(lambda: slow.asked)
    worker.stop(10)
    assert store.get(job.id).state is State.DONE
    assert store.get(later.id).state is State.QUEUED


def test_stopping_without_grace_puts_back_what_runs_and_counts_no_attempt(
    store: JobStore, working: Callable[..., JobWorker]
) -> None:
    job = add(store)
    slow = FakeTranscriber(pause_s=0.05, segments=SEGMENTS * 100)
    worker = working(store, slow)
    wait_for(lambda: slow.asked)
    worker.stop(0)
    (file,) = store.get(job.id).files
    assert (file.state, file.attempts) == (State.QUEUED, 0)


def test_a_second_process_waits_until_the_first_has_gone(
    store: JobStore, working: Callable[..., JobWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sensevoice.job_worker.RETRY_S", 0.05)
    first = working(store, FakeTranscriber())
    wait_for(first.owns.is_set)
    second = working(store, FakeTranscriber())
    time.sleep(0.2)
    assert not second.owns.is_set()
    first.stop()
    wait_for(second.owns.is_set)


# The end of a process -----------------------------------------------------------------------------

PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from sensevoice.job_worker import JobWorker
from sensevoice.jobs import JobStore
from sensevoice.records import from_record

directory, record, pause_s, threads = sys.argv[1:]

class Poisoned:
    def transcribe(self, source, options, on_progress):
        print("begun", flush=True)
        if source.read(6) == b"RIFF!!":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(float(pause_s))
        return from_record(record)

store = JobStore(Path(directory))
worker = JobWorker(store, Poisoned(), threads=int(threads))
worker.start()
while store._rows("SELECT 1 FROM jobs WHERE finished_s IS NULL"):
    time.sleep(0.02)
worker.stop()
store.close()
print("all done", flush=True)
"""


def process(store: JobStore, pause_s: float = 0.0, threads: int = 1) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(store.directory), to_record(TRANSCRIPT)]
    command += [str(pause_s), str(threads)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_no_job_is_lost_or_done_twice_when_the_process_is_killed_in_the_middle(store: JobStore) -> None:
    added = [add(store, *[WAV] * 3) for _ in range(4)]
    with process(store, pause_s=0.1) as killed:
        assert killed.stdout
        for _ in range(5):  # files: in the middle of the second job
            assert killed.stdout.readline() == "begun\n"
        killed.send_signal(signal.SIGKILL)
    assert {store.get(job.id).state for job in added} >= {State.DONE, State.RUNNING, State.QUEUED}
    with process(store) as restarted:
        output, _ = restarted.communicate(timeout=30)
    assert output.endswith("all done\n")
    assert output.count("begun") == 8  # twelve, of which four had been finished
    assert [store.get(job.id).state for job in added] == [State.DONE] * 4
    assert [file.attempts for job in added for file in store.get(job.id).files] == [1] * 4 + [2] + [1] * 7
    assert store._rows("SELECT count(*) FROM results")[0][0] == 12
    assert all(store.result(job.id, i)[1] == TRANSCRIPT for job in added for i in range(3))
    wait_for(lambda: spool_files(store) == [])
    assert store._rows("PRAGMA integrity_check")[0][0] == "ok"


def test_a_recording_that_kills_the_process_is_given_up_and_takes_no_other_with_it(store: JobStore) -> None:
    job = add(store, WAV, b"RIFF!!", WAV)
    ends = []
    for _ in range(MAX_ATTEMPTS + 1):
        with process(store, pause_s=0.01, threads=3) as one:
            one.communicate(timeout=30)
        ends.append(one.returncode)
    assert ends == [-signal.SIGKILL] * MAX_ATTEMPTS + [0]
    done = store.get(job.id)
    assert done.state is State.DONE
    assert [file.state for file in done.files] == [State.DONE, State.FAILED, State.DONE]
    assert done.files[1].fault and done.files[1].fault.kind == "CrashingFileError"
    assert done.files[1].fault.sentence.startswith("The program ended 3 times while it worked on 1.wav")
    wait_for(lambda: spool_files(store) == [])


def test_the_options_of_a_job_reach_the_transcriber(
    store: JobStore, working: Callable[..., JobWorker]
) -> None:
    options = TranscribeOptions(language="ja", use_itn=False, use_vad=False, ban_emo_unk=True)
    fake = FakeTranscriber()
    working(store, fake)
    job = finished(store, add(store, options=options))
    assert fake.asked == [options]
    transcript: Transcript = store.result(job.id)[1]
    assert transcript.options == options
    assert json.loads(store._rows("SELECT options FROM jobs")[0][0])["language"] == "ja"
