"""What S3 and the AWS SDK can answer, in one table: which answers are worth a retry, and which VeraError each becomes.

Only s3.py and s3_connect.py use it. The retrying itself is stamina's; the SDK's own retries are switched off, so that
there is one bound on time and attempts, not a product of two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import stamina
from botocore import exceptions as sdk
from stamina.instrumentation import LoggingOnRetryHook, set_on_retry_hooks

from vera_core.errors import (
    ConflictError,
    IntegrityError,
    NotFoundError,
    RestrictedError,
    UnavailableError,
    UnsafeStoreError,
    UsageError,
    VeraError,
)
from vera_core.store.base import ColdObjectError, missing_object, refused_condition

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

# stamina's default reports retries through structlog where that is installed, which prints to standard output: there it
# would mix with the bytes of `vera get`.
set_on_retry_hooks([LoggingOnRetryHook])


@dataclass(frozen=True, slots=True)
class Place:
    """What a request is about, for errors. `key` may be a prefix; empty for the bucket itself."""

    bucket: str
    key: str = ""
    version_id: str | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of failure: the error it becomes, what to say, what to do."""

    error: type[VeraError]
    what: str
    todo: str


_BUSY = Fault(
    UnavailableError,
    "the store does not answer, or answers that it can't for now",
    "Nothing is known to be lost: check that the store is up and reachable, then run it again.",
)
_CREDENTIALS = Fault(
    UsageError,
    "the store does not accept the credentials",
    "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_PROFILE and the endpoint they belong to.",
)
_FORBIDDEN = Fault(
    RestrictedError,
    "the store denies access",
    "Allow this identity the action in the bucket's or the identity's policy "
    "(without s3:ListBucket a missing object is denied too).",
)
_CHECKSUM = Fault(
    IntegrityError,
    "the store saw other bytes than were sent",
    "Nothing was stored. Run it again; if it recurs, check the network, this machine's memory and the local disk.",
)
_RECEIVED = Fault(
    IntegrityError,
    "other bytes arrived than the store has a checksum for",
    "Run `vera verify --deep` on the shard.",
)
_RANGE = Fault(
    IntegrityError, "the object is shorter than the range that was asked for", "Verify the shard; it may be cut short."
)
_NO_BUCKET = Fault(
    NotFoundError, "there is no such bucket", "Check its name and region, or create it with `vera init`."
)
_TAKEN = Fault(ConflictError, "the bucket exists already", "Use it, or choose another name.")
_CLOCK = Fault(
    UsageError, "this machine's clock and the store's differ by more than the store accepts", "Set the clock (use NTP)."
)
_GONE = Fault(ConflictError, "the multipart upload was ended by somebody else", "Run it again.")
_UNKNOWN_CALL = Fault(UnsafeStoreError, "the store does not offer this S3 function", "Run `vera probe` on the store.")
_COLD = Fault(
    ColdObjectError,
    "the object lies in a cold storage class, where nothing can be read",
    "Restore it (`aws s3api restore-object`), wait until that is done, and run it again.",
)
_ADDRESS = Fault(UsageError, "the store's address or region is wrong", "Check AWS_ENDPOINT_URL_S3 and AWS_REGION.")
_REFUSED = Fault(UsageError, "the store refused the request", "Check the settings that it names.")
_TLS = Fault(
    UnavailableError,
    "no trusted TLS connection to the store",
    "Name the authority that signed its certificate in AWS_CA_BUNDLE.",
)
_CONFIGURATION = Fault(UsageError, "the AWS settings are incomplete or wrong", "Check AWS_* and ~/.aws/config.")

TRANSIENT = frozenset(
    {
        "500", "502", "503", "504", "InternalError", "InternalFailure", "ServiceUnavailable", "SlowDown", "Throttling",
        "ThrottlingException", "RequestThrottled", "RequestLimitExceeded", "BandwidthLimitExceeded", "RequestTimeout",
        "RequestTimeoutException", "OperationAborted", "ConditionalRequestConflict", "IncompleteBody", "409",
    }
)  # fmt: skip
"""Error codes (or, where S3 sends no body, statuses) after which the same request may succeed."""

FAULTS = {
    "NoSuchBucket": _NO_BUCKET,
    "AccessDenied": _FORBIDDEN,
    "AllAccessDisabled": _FORBIDDEN,
    "AccountProblem": _FORBIDDEN,
    "403": _FORBIDDEN,
    "InvalidAccessKeyId": _CREDENTIALS,
    "SignatureDoesNotMatch": _CREDENTIALS,
    "ExpiredToken": _CREDENTIALS,
    "InvalidToken": _CREDENTIALS,
    "TokenRefreshRequired": _CREDENTIALS,
    "AuthorizationHeaderMalformed": _ADDRESS,
    "PermanentRedirect": _ADDRESS,
    "301": _ADDRESS,
    "RequestTimeTooSkewed": _CLOCK,
    "BadDigest": _CHECKSUM,
    "InvalidDigest": _CHECKSUM,
    "XAmzContentSHA256Mismatch": _CHECKSUM,
    "XAmzContentChecksumMismatch": _CHECKSUM,
    "InvalidRange": _RANGE,
    "416": _RANGE,
    "BucketAlreadyExists": _TAKEN,
    "BucketAlreadyOwnedByYou": _TAKEN,
    "NoSuchUpload": _GONE,
    "InvalidObjectState": _COLD,
    "NotImplemented": _UNKNOWN_CALL,
    "501": _UNKNOWN_CALL,
}
MISSING = frozenset({"NoSuchKey", "NoSuchVersion", "404", "MethodNotAllowed", "405"})
"""405 is S3's answer where a VersionId names a delete marker."""
CONDITION = frozenset({"PreconditionFailed", "412"})

SDK_FAULTS: tuple[tuple[type[Exception], Fault], ...] = (
    (sdk.FlexibleChecksumError, _RECEIVED),
    (sdk.SSLError, _TLS),
    (sdk.NoCredentialsError, _CREDENTIALS),
    (sdk.PartialCredentialsError, _CREDENTIALS),
    (sdk.CredentialRetrievalError, _CREDENTIALS),
    (sdk.HTTPClientError, _BUSY),
    (sdk.ConnectionError, _BUSY),
    (sdk.IncompleteReadError, _BUSY),
    (sdk.ParamValidationError, _REFUSED),
    (sdk.BotoCoreError, _CONFIGURATION),
)
"""Failures on this side of the wire; the first class that fits counts."""

_SDK_TRANSIENT = (sdk.HTTPClientError, sdk.ConnectionError, sdk.IncompleteReadError)


def error_code(error: sdk.ClientError) -> str:
    """S3's error code, or the HTTP status where there is none."""
    return str(error.response.get("Error", {}).get("Code") or error.response["ResponseMetadata"]["HTTPStatusCode"])


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed a moment later."""
    if isinstance(error, sdk.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return error_code(error) in TRANSIENT or (status >= 500 and status != 501)
    return isinstance(error, _SDK_TRANSIENT) and not isinstance(error, sdk.SSLError)


class Caller:
    """Makes requests: retries what is transient, within bounds, and turns the last failure into a VeraError.

    Args:
        attempts: how often a request is sent at most.
        seconds: how long after the first attempt no other is begun.
        backoff: seconds to wait before the second attempt; each further wait doubles, with jitter, up to 5 s.
        tells_markers: whether a 404 of this store that names no delete marker means that there is none.
    """

    def __init__(self, *, attempts: int, seconds: float, backoff: float, tells_markers: bool) -> None:
        self._retrying = stamina.RetryingCaller(
            attempts=attempts, timeout=seconds, wait_initial=backoff, wait_max=5.0, wait_jitter=5 * backoff
        ).on(is_transient)
        self._tells_markers = tells_markers

    def __call__(self, place: Place, request: Callable[[], T]) -> T:
        """The result of `request`.

        Raises:
            VeraError: as the tables of this module say.
        """
        try:
            return self._retrying(request)
        except (sdk.ClientError, sdk.BotoCoreError) as error:
            raise self.translate(error, place) from error

    def translate(self, error: sdk.ClientError | sdk.BotoCoreError, place: Place) -> VeraError:
        """The VeraError for a failure at `place`."""
        if not isinstance(error, sdk.ClientError):
            fault = next(fault for kind, fault in SDK_FAULTS if isinstance(error, kind))
            return _raise(fault, place, str(error))
        code = error_code(error)
        if code in CONDITION:
            return refused_condition(place.bucket, place.key)
        if code in MISSING and place.key:
            return missing_object(
                place.bucket, place.key, place.version_id, delete_marker=self._marker(error.response, place)
            )
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        default = _NO_BUCKET if code == "404" else _BUSY if is_transient(error) else FAULTS.get(str(status), _REFUSED)
        message = error.response.get("Error", {}).get("Message", "")
        return _raise(FAULTS.get(code, default), place, f"{code}: {message}" if message else code)

    def _marker(self, response: object, place: Place) -> bool | None:
        headers = response["ResponseMetadata"].get("HTTPHeaders", {}) if isinstance(response, dict) else {}
        if headers.get("x-amz-delete-marker", "").lower() == "true":
            return True
        return False if self._tells_markers or place.version_id is not None else None


def _raise(fault: Fault, place: Place, said: str) -> VeraError:
    where = {"bucket": place.bucket, "key": place.key or None, "version_id": place.version_id, "answer": said}
    return fault.error(fault.what, todo=fault.todo, **where)
