"""S3Store against a real server through a network that fails: never wrong bytes, and errors that say what to do."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import boto3
import pytest

from tests.authority import make_authority
from tests.store.conformance import lock
from tests.store.proxy import Fault, FaultyProxy, Message, s3_error
from vera_core.errors import (
    ConflictError,
    IntegrityError,
    NotFoundError,
    PreconditionError,
    RestrictedError,
    UnavailableError,
    UnsafeStoreError,
    UsageError,
    VeraError,
)
from vera_core.model import LockMode
from vera_core.store.base import ABSENT, LifecycleRule, MissingObjectError
from vera_core.store.s3 import S3Store, parse_uri
from vera_core.store.s3_connect import S3Options

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator
    from pathlib import Path

    from vera_core.store.embedded import EmbeddedS3

QUICK = S3Options(attempts=3, retry_seconds=20, backoff_seconds=0.01, connect_seconds=2, read_seconds=5)
DATA = bytes(range(256)) * 40


@pytest.fixture
def proxy(embedded_s3: EmbeddedS3) -> Iterator[FaultyProxy]:
    with FaultyProxy(embedded_s3.endpoint) as between:
        yield between


@pytest.fixture
def far(s3_store: S3Store, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """The bucket of `s3_store`, reached through `proxy`."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
    return S3Store(s3_store.bucket, options=QUICK)


def flip_middle(message: Message) -> Message:
    middle = len(message.body) // 2
    return replace(message, body=message.body[:middle] + bytes([message.body[middle] ^ 1]) + message.body[middle + 1 :])


# ---------------------------------------------------------------------- retries


def test_a_busy_store_is_asked_again(far: S3Store, proxy: FaultyProxy, s3_store: S3Store) -> None:
    proxy.faults = [Fault("PUT", "*/k", times=2, answer=s3_error(503, "SlowDown"))]
    far.put("k", b"data", condition=ABSENT)
    assert proxy.count("PUT", "*/k") == 3
    assert [info.size for info in s3_store.list_versions("k")] == [4]


def test_a_conflict_among_conditional_puts_is_tried_again(far: S3Store, proxy: FaultyProxy) -> None:
    proxy.faults = [Fault("PUT", answer=s3_error(409, "ConditionalRequestConflict"))]
    far.put("k", b"data", condition=ABSENT)
    assert far.get("k").data == b"data"


def test_a_store_that_stays_down_is_given_up_by_name(far: S3Store, proxy: FaultyProxy) -> None:
    proxy.faults = [Fault(times=1000, answer=s3_error(503, "ServiceUnavailable"))]
    for call in (lambda: far.put("k", b""), lambda: far.get_range("k", 0, 4), lambda: list(far.list_versions("k"))):
        with pytest.raises(UnavailableError) as caught:
            call()
        assert caught.value.where["bucket"] == far.bucket
        assert caught.value.where["key"] == "k"
        assert "ServiceUnavailable" in caught.value.where["answer"]
        assert caught.value.todo
    assert proxy.count("PUT") == QUICK.attempts


def test_nobody_listens(s3_store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{taken.getsockname()[1]}")
        store = S3Store(s3_store.bucket, options=QUICK)
        for call in (lambda: store.get("k"), lambda: store.get_range("k", 0, 1), store.now, store.bucket_state):
            with pytest.raises(UnavailableError):
                call()


def test_a_silent_store_is_not_waited_for(s3_store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{silent.getsockname()[1]}")
        store = S3Store(s3_store.bucket, options=replace(QUICK, read_seconds=0.3, attempts=2))
        with pytest.raises(UnavailableError, match="does not answer"):
            store.get("k")
        with pytest.raises(UnavailableError, match="does not answer"):
            store.get_range("k", 0, 1)


def test_a_lost_reply_of_a_conditional_put_is_a_precondition_error(
    far: S3Store, proxy: FaultyProxy, s3_store: S3Store
) -> None:
    proxy.faults = [Fault("PUT", lose=True)]
    with pytest.raises(PreconditionError):
        far.put("k", b"mine", condition=ABSENT)
    assert s3_store.get("k").data == b"mine"
    assert proxy.count("PUT") == 2


def test_a_cut_reply_is_read_again(far: S3Store, proxy: FaultyProxy, tmp_path: Path) -> None:
    made = far.put("k", DATA)
    proxy.faults = [Fault("GET", cut=100)]
    assert far.get("k").data == DATA
    proxy.faults = [Fault("GET", cut=100)]
    assert far.get_range("k", 10, 5000, version_id=made.version_id) == DATA[10:5010]
    proxy.faults = [Fault("GET", cut=100)]
    assert far.get_suffix("k", 5000, version_id=made.version_id) == (DATA[-5000:], len(DATA))
    proxy.faults = [Fault("GET", cut=100)]
    far.download("k", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == DATA


# ---------------------------------------------------------------------- wrong bytes


@pytest.mark.parametrize("way", ["put", "put_file"])
def test_bytes_altered_on_the_way_up_are_refused(
    far: S3Store, proxy: FaultyProxy, s3_store: S3Store, tmp_path: Path, way: str
) -> None:
    source = tmp_path / "source"
    source.write_bytes(DATA)
    proxy.faults = [Fault("PUT", times=9, request=flip_middle)]
    with pytest.raises(IntegrityError):
        far.put("k", DATA) if way == "put" else far.put_file("k", source, sha256=hashlib.sha256(DATA).digest())
    assert list(s3_store.list_versions("k")) == []


def test_bytes_altered_on_the_way_down_are_refused(far: S3Store, proxy: FaultyProxy, tmp_path: Path) -> None:
    far.put("k", DATA)
    proxy.faults = [Fault("GET", times=9, reply=flip_middle)]
    with pytest.raises(IntegrityError):
        far.get("k")
    with pytest.raises(IntegrityError):
        far.download("k", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def part(first: int, last: int, *, status: int = 206, said: str | None = None) -> Message:
    """The reply to a range request that holds bytes `first` to `last`, whatever was asked for."""
    said = f"bytes {first}-{last}/{len(DATA)}" if said is None else said
    headers = (
        ("ETag", '"0123456789abcdef0123456789abcdef"'),
        ("Last-Modified", "Sat, 21 Nov 2026 11:17:12 GMT"),
        ("Content-Range", said),
    )
    return Message(headers if said else headers[:2], DATA[first : last + 1], status)


@pytest.mark.parametrize(
    "answer",
    [
        part(0, len(DATA) - 1, status=200, said=""),
        part(0, len(DATA) - 1, status=200),
        part(0, len(DATA) - 1),
        part(11, 20),
        part(10, 18),
        part(10, 20),
        part(10, 19, said=""),
        part(10, 18, said=f"bytes 10-19/{len(DATA)}"),
        part(10, 20, said=f"bytes 10-19/{len(DATA)}"),
        part(10, 19, said="bytes 10-19/*"),
        part(10, 19, said="lines 10-19/99"),
        part(10, 19, status=200, said=f"bytes 10-19/{len(DATA)}"),
        part(0, -1, said=f"bytes 10-9/{len(DATA)}"),
    ],
)
def test_an_answer_to_another_range_is_an_error(far: S3Store, proxy: FaultyProxy, answer: Message) -> None:
    proxy.faults = [Fault("GET", times=99, answer=answer)]
    with pytest.raises(IntegrityError):
        far.get_range("k", 10, 10, version_id="0" * 32)
    size = part(0, -1, status=200, said="").with_header("Content-Length", str(len(DATA)))
    proxy.faults += [Fault("HEAD", times=99, answer=size)]
    with pytest.raises(IntegrityError):
        far.get_suffix("k", 10, version_id="0" * 32)


def test_an_exact_answer_is_taken(far: S3Store, proxy: FaultyProxy) -> None:
    proxy.faults = [
        Fault("GET", times=1, answer=part(10, 19)),
        Fault("GET", answer=part(len(DATA) - 10, len(DATA) - 1)),
    ]
    assert far.get_range("k", 10, 10) == DATA[10:20]
    assert far.get_suffix("k", 10) == (DATA[-10:], len(DATA))


def test_an_answer_about_another_place_is_an_error(far: S3Store, proxy: FaultyProxy) -> None:
    made = far.put("k", DATA)
    proxy.faults = [
        Fault("GET", times=9, reply=lambda message: message.with_header("Content-Range", f"bytes 0-9/{len(DATA)}"))
    ]
    with pytest.raises(IntegrityError) as caught:
        far.get_range("k", 10, 10, version_id=made.version_id)
    assert caught.value.where == {"bucket": far.bucket, "key": "k", "version_id": made.version_id}


def test_ranges_are_read_several_at_once_and_each_is_exact(far: S3Store, proxy: FaultyProxy) -> None:
    made = far.put("k", DATA)
    ranges = [(start, 10) for start in range(0, 160, 20)]
    four = threading.Barrier(4, timeout=20)

    def together(message: Message) -> Message:
        four.wait()
        return message

    proxy.faults = [Fault("GET", times=4, reply=together)]
    assert far.get_ranges("k", ranges, version_id=made.version_id) == [DATA[at : at + 10] for at, _ in ranges]
    proxy.faults = [Fault("GET", times=2, cut=3)]
    assert far.get_ranges("k", ranges, version_id=made.version_id) == [DATA[at : at + 10] for at, _ in ranges]
    proxy.faults = [
        Fault("GET", times=99, reply=lambda message: message.with_header("Content-Range", f"bytes 0-9/{len(DATA)}"))
    ]
    with pytest.raises(IntegrityError):
        far.get_ranges("k", ranges, version_id=made.version_id)


def test_a_version_listing_that_can_not_be_read_is_an_error(far: S3Store, proxy: FaultyProxy) -> None:
    far.put("k", DATA)
    proxy.faults = [
        Fault(
            "GET",
            "*versions*",
            reply=lambda message: replace(
                message, body=message.body.replace(b"<Version>", b"<V>").replace(b"</Version>", b"</V>")
            ),
        )
    ]
    assert list(far.list_versions("nothing")) == []
    proxy.faults = [
        Fault(
            "GET",
            "*versions*",
            reply=lambda message: replace(message, body=message.body[: len(message.body) // 2]),
            times=9,
        )
    ]
    with pytest.raises(VeraError):
        list(far.list_versions("k"))


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("status", "code", "error", "says"),
    [
        (403, "AccessDenied", RestrictedError, "policy"),
        (403, "InvalidAccessKeyId", UsageError, "AWS_ACCESS_KEY_ID"),
        (403, "RequestTimeTooSkewed", UsageError, "clock"),
        (400, "AuthorizationHeaderMalformed", UsageError, "AWS_REGION"),
        (404, "NoSuchBucket", NotFoundError, "vera init"),
        (403, "InvalidObjectState", UnavailableError, "Restore"),
        (501, "NotImplemented", UnsafeStoreError, "vera probe"),
        (400, "InvalidArgument", UsageError, "settings"),
    ],
)
def test_refusals_say_what_to_do(
    far: S3Store, proxy: FaultyProxy, status: int, code: str, error: type[VeraError], says: str
) -> None:
    proxy.faults = [Fault(times=99, answer=s3_error(status, code))]
    for call in (lambda: far.put("k", b"x"), lambda: far.get("k"), lambda: far.get_range("k", 1, 2)):
        with pytest.raises(error) as caught:
            call()
        assert says in str(caught.value)
        assert code in caught.value.where["answer"]
        assert caught.value.where["key"] == "k"
    assert proxy.count("PUT") == 1


def test_wrong_credentials(embedded_s3: EmbeddedS3, s3_store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    s3_store.put("k", DATA)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    store = S3Store(s3_store.bucket, options=QUICK)
    for call in (lambda: store.get("k"), lambda: store.get_range("k", 0, 1), lambda: list(store.list_objects(""))):
        with pytest.raises(UsageError, match="credentials"):
            call()


def test_no_credentials(embedded_s3: EmbeddedS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(UsageError, match="no AWS credentials"):
        S3Store("bucket")


def test_an_unknown_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(UsageError, match="nobody"):
        S3Store("bucket")


def test_a_bucket_that_is_not_there(embedded_s3: EmbeddedS3) -> None:
    store = S3Store("no-such-bucket", options=QUICK)
    for call in (
        lambda: store.put("k", b""),
        lambda: store.get("k"),
        lambda: store.get_range("k", 0, 1),
        lambda: list(store.list_versions("")),
        store.now,
    ):
        with pytest.raises(NotFoundError) as caught:
            call()
        assert not isinstance(caught.value, MissingObjectError)
        assert caught.value.where["bucket"] == "no-such-bucket"
    assert not store.bucket_state().exists


@pytest.mark.parametrize("uri", ["bucket/prefix", "s3:/bucket", "s3://", "s3:///x", "http://bucket/x", "s3://UPPER/x"])
def test_a_uri_without_bucket(uri: str) -> None:
    with pytest.raises(UsageError, match="s3://bucket/prefix"):
        parse_uri(uri)


def test_uris() -> None:
    assert parse_uri("s3://my.bucket/a/b/") == ("my.bucket", "a/b")
    assert parse_uri("s3://my-bucket") == parse_uri("s3://my-bucket/") == ("my-bucket", "")


# ---------------------------------------------------------------------- delete markers


def test_what_a_404_tells_of_delete_markers(far: S3Store, proxy: FaultyProxy, s3_store: S3Store) -> None:
    def asked(store: S3Store) -> bool | None:
        with pytest.raises(MissingObjectError) as caught:
            store.head("k")
        return caught.value.delete_marker

    assert asked(far) is None
    assert asked(S3Store(far.bucket, options=replace(QUICK, tells_markers=True))) is False
    proxy.faults = [Fault("HEAD", reply=lambda message: message.with_header("x-amz-delete-marker", "true"))]
    assert asked(far) is True


# ---------------------------------------------------------------------- multipart


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big"
    path.write_bytes(hashlib.shake_128(b"big").digest(12_000_000))
    return path


def send(store: S3Store, path: Path) -> str:
    digest = hashlib.sha256(path.read_bytes()).digest()
    return store.put_file("big", path, sha256=digest, lock=lock(60), multipart=True).version_id


def unfinished(store: S3Store) -> list[str]:
    reply = boto3.client("s3").list_multipart_uploads(Bucket=store.bucket)
    return [upload["Key"] for upload in reply.get("Uploads", [])]


@pytest.fixture
def parts(far: S3Store) -> S3Store:
    return S3Store(far.bucket, options=replace(QUICK, part_size=5 << 20, parts_in_flight=2))


def test_parts_make_the_whole(parts: S3Store, proxy: FaultyProxy, big: Path, tmp_path: Path) -> None:
    version_id = send(parts, big)
    assert proxy.count("PUT", "*partNumber=*") == 3
    parts.download("big", tmp_path / "copy", version_id=version_id)
    assert (tmp_path / "copy").read_bytes() == big.read_bytes()
    held = parts.get_lock("big", version_id)
    assert held is not None
    assert held.mode is LockMode.GOVERNANCE
    assert unfinished(parts) == []


def test_a_part_is_sent_again(parts: S3Store, proxy: FaultyProxy, big: Path) -> None:
    proxy.faults = [Fault("PUT", "*partNumber=2*", answer=s3_error(500, "InternalError"))]
    assert parts.get_range("big", 6_000_000, 99, version_id=send(parts, big)) == big.read_bytes()[6_000_000:6_000_099]


def test_a_lost_reply_of_the_completion(parts: S3Store, proxy: FaultyProxy, big: Path) -> None:
    proxy.faults = [Fault("POST", "*uploadId=*", lose=True)]
    version_id = send(parts, big)
    assert [info.version_id for info in parts.list_versions("big")] == [version_id]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault("PUT", "*partNumber=2*", times=9, answer=s3_error(500, "InternalError")), UnavailableError),
        (Fault("PUT", "*partNumber=3*", times=9, request=flip_middle), IntegrityError),
        (Fault("POST", "*uploadId=*", times=9, answer=s3_error(403, "AccessDenied")), RestrictedError),
        (
            Fault("POST", "*uploadId=*", times=9, answer=s3_error(404, "NoSuchUpload")),
            (ConflictError, MissingObjectError),
        ),
    ],
)
def test_a_failed_upload_leaves_nothing(
    parts: S3Store, proxy: FaultyProxy, big: Path, fault: Fault, error: type[VeraError]
) -> None:
    proxy.faults = [fault]
    with pytest.raises(error):
        send(parts, big)
    assert list(parts.list_versions("big")) == []
    assert unfinished(parts) == []


def test_a_file_altered_before_its_upload_leaves_nothing(parts: S3Store, big: Path) -> None:
    with pytest.raises(IntegrityError):
        parts.put_file("big", big, sha256=bytes(32), multipart=True)
    assert list(parts.list_versions("big")) == []
    assert unfinished(parts) == []


def test_an_abort_that_fails_is_told(
    parts: S3Store, proxy: FaultyProxy, big: Path, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.faults = [Fault("DELETE", times=99, answer=s3_error(503, "SlowDown"))]
    with pytest.raises(IntegrityError):
        parts.put_file("big", big, sha256=bytes(32), multipart=True)
    assert "left unfinished" in caplog.text


MEASURE = """
import hashlib, resource, sys
from pathlib import Path
from vera_core.store.s3 import S3Store
from vera_core.store.s3_connect import S3Options
store = S3Store(sys.argv[1], options=S3Options(part_size=5 << 20, parts_in_flight=2))
path, multipart = Path(sys.argv[2]), sys.argv[3] == "multipart"
with path.open("rb") as file:
    digest = hashlib.file_digest(file, "sha256").digest()
store.put_file("big", path, sha256=digest, multipart=multipart)
store.download("big", path.with_suffix(".copy"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("way", ["single", "multipart"])
def test_memory_does_not_grow_with_the_file(s3_store: S3Store, tmp_path: Path, way: str) -> None:
    peaks = []
    for size in (20 << 20, 100 << 20):
        path = tmp_path / f"{size}"
        with path.open("wb") as file:
            file.truncate(size)
        command = [sys.executable, "-c", MEASURE, s3_store.bucket, str(path), way]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        assert path.with_suffix(".copy").stat().st_size == size
    assert peaks[1] - peaks[0] < 16 << 10  # KiB


# ---------------------------------------------------------------------- settings of the AWS SDK


def test_profiles_serve_both_clients(
    embedded_s3: EmbeddedS3, s3_store: S3Store, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys = {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    for name in (*keys, "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text(f"[profile archive]\nregion = us-east-1\nendpoint_url = {proxy.url}\n")
    (tmp_path / "credentials").write_text(
        f"[archive]\naws_access_key_id = {keys['AWS_ACCESS_KEY_ID']}\n"
        f"aws_secret_access_key = {keys['AWS_SECRET_ACCESS_KEY']}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "archive")
    check_both_clients(S3Store(s3_store.bucket, options=QUICK), proxy)


def test_a_proxy_serves_both_clients(s3_store: S3Store, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("http_proxy", proxy.url)
    check_both_clients(S3Store(s3_store.bucket, options=QUICK), proxy)


@pytest.fixture
def authority(tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
    """A private certificate authority: its certificate, and a TLS server context that it has signed."""
    return make_authority(tmp_path)


def test_a_private_authority_is_trusted_by_both_clients_if_named(
    embedded_s3: EmbeddedS3,
    s3_store: S3Store,
    authority: tuple[Path, ssl.SSLContext],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    certificate, context = authority
    with FaultyProxy(embedded_s3.endpoint, tls=context) as secure:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", secure.url)
        store = S3Store(s3_store.bucket, options=QUICK)
        for call in (lambda: store.get("k"), lambda: store.get_range("k", 0, 1)):
            with pytest.raises(UnavailableError, match="AWS_CA_BUNDLE"):
                call()
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        check_both_clients(S3Store(s3_store.bucket, options=QUICK), secure)


def check_both_clients(store: S3Store, proxy: FaultyProxy) -> None:
    """Writes with boto3 and reads with obstore through `proxy`, without obstore having failed over."""
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr(logging.getLogger("vera_core.store.s3"), "info", lambda text, *rest: said.append(text % rest))
        store.put("k", DATA)
        assert proxy.count("PUT", "*/k") == 1
        assert store.get_range("k", 5, 10) == DATA[5:15]
        assert proxy.count("GET", "*/k") == 1
        assert said == []


# ---------------------------------------------------------------------- the bucket


def test_settings_of_the_bucket_are_told(s3_store: S3Store) -> None:
    client = boto3.client("s3")
    client.put_object_lock_configuration(
        Bucket=s3_store.bucket,
        ObjectLockConfiguration={
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 3}},
        },
    )
    client.put_bucket_lifecycle_configuration(
        Bucket=s3_store.bucket,
        LifecycleConfiguration={
            "Rules": [
                {"ID": "old", "Status": "Enabled", "Filter": {"Prefix": "t/"}, "Expiration": {"Days": 30}},
                {"ID": "off", "Status": "Disabled", "Filter": {"Prefix": "t/"}, "Expiration": {"Days": 30}},
            ]
        },
    )
    state = s3_store.bucket_state()
    assert state.default_retention == "GOVERNANCE for 3 days"
    assert state.expirations == (LifecycleRule("old", "t/"),)


def test_settings_that_the_store_does_not_know(far: S3Store, proxy: FaultyProxy) -> None:
    proxy.faults = [
        Fault("GET", "*lifecycle*", answer=s3_error(501, "NotImplemented")),
        Fault("GET", "*object-lock*", answer=s3_error(501, "NotImplemented")),
    ]
    state = far.bucket_state()
    assert (state.object_lock, state.default_retention) == (False, None)
    assert (state.expirations, state.transitions) == (None, None)


def test_what_lies_in_a_cold_storage_class_is_told(far: S3Store, proxy: FaultyProxy, tmp_path: Path) -> None:
    """S3's answer for an object that must be restored first: nothing is wrong with it, and it is asked for once."""
    made = far.put("t/k.vera", DATA)
    for read in (
        lambda: far.get("t/k.vera", version_id=made.version_id),
        lambda: far.get_range("t/k.vera", 5, 10, version_id=made.version_id),
        lambda: far.get_ranges("t/k.vera", [(5, 10), (50, 10)], version_id=made.version_id),
        lambda: far.get_suffix("t/k.vera", 10, version_id=made.version_id),
        lambda: far.download("t/k.vera", tmp_path / "copy", version_id=made.version_id),
    ):
        proxy.faults = [Fault("GET", times=9, answer=s3_error(403, "InvalidObjectState"))]
        with pytest.raises(UnavailableError, match="cold storage class") as caught:
            read()
        assert "Restore it" in caught.value.todo
        assert caught.value.kind.http_status == 503
        assert (caught.value.where["key"], caught.value.where["version_id"]) == ("t/k.vera", made.version_id)
    assert not (tmp_path / "copy").exists()


def test_a_store_without_tags_says_so(far: S3Store, proxy: FaultyProxy) -> None:
    made = far.put("k", DATA)
    proxy.faults = [Fault("*", "*tagging*", times=9, answer=s3_error(501, "NotImplemented"))]
    with pytest.raises(UnsafeStoreError):
        far.get_tags("k", made.version_id)
    with pytest.raises(UnsafeStoreError):
        far.set_tags("k", made.version_id, {"a": "b"})


def test_many_threads_share_a_store(s3_store: S3Store) -> None:
    made = s3_store.put("k", DATA)
    wrong: list[int] = []

    def read(seed: int) -> None:
        wrong.extend(
            start
            for start in range(seed, len(DATA) - 100, 331)
            if s3_store.get_range("k", start, 100, version_id=made.version_id) != DATA[start : start + 100]
        )

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
