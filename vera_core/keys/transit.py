"""A KEK in the transit engine of OpenBao or HashiCorp Vault, which never gives it out: the key service for production.

The only importer of hvac. Batches go out at 400 items, because servers refuse JSON with more than 1,000 strings. The
service is asked for encrypt, decrypt and rewrap of plain items: no context is sent (envelope.py binds payloads to
their place), so that any server and any policy that can do these three will do. Key and policy are the operator's:
docs/keys-v1.md, "The transit key".
"""

from __future__ import annotations

import base64
import re
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import hvac
import stamina
from hvac import exceptions as sdk

from vera_core.errors import (
    IntegrityError,
    NotFoundError,
    RestrictedError,
    UnavailableError,
    UsageError,
    VeraError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from vera_core.keys.service import Outcome

BATCH = 400
KEY_TYPES = frozenset({"aes256-gcm96", "chacha20-poly1305", "xchacha20-poly1305"})
"""Transit keys of 256 bits that encrypt and authenticate."""

_WRAPPED = re.compile(rb"vault:v([1-9][0-9]{0,8}):[A-Za-z0-9+/=]+", re.ASCII)
_NAME = re.compile(r"\w([\w.-]*\w)?", re.ASCII)
_ADDRESS = re.compile(r"(https?)://(\[[0-9A-Fa-f:]+\]|[\w.-]+)(:[0-9]{1,5})?/?", re.ASCII)
_SHOWN = 300
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_TRANSIENT = (
    sdk.RateLimitExceeded,
    sdk.InternalServerError,
    sdk.BadGateway,
    sdk.VaultDown,
    sdk.UnexpectedError,  # a status that hvac has no class for, such as 412 and 504
    OSError,  # requests: no connection, a timeout, TLS
)


@dataclass(frozen=True, slots=True)
class TransitOptions:
    """Which server and key, and how patiently.

    `address` is the server's URL, `key` the transit key's name, `mount` the path of the engine; `authority` a file with
    the certificates that its TLS is checked by (the system's by default). Without TLS token and keys would go openly
    over the network: http is for this machine, or where `plain_http` says that the network protects them. `timeout`
    are the seconds that a connection or an answer may take, `attempts` how often a request is sent at most, `seconds`
    how long after the first no other is begun.

    Raises:
        UsageError: key, mount, namespace or address can't be.
    """

    address: str
    key: str
    mount: str = "transit"
    namespace: str = ""
    authority: Path | None = None
    plain_http: bool = False
    timeout: float = 5.0
    attempts: int = 4
    seconds: float = 15.0

    def __post_init__(self) -> None:
        names = [self.key, *self.mount.split("/"), *(self.namespace.split("/") if self.namespace else [])]
        address = _ADDRESS.fullmatch(self.address)
        if address is None or not all(_NAME.fullmatch(name) for name in names):
            raise UsageError(
                "the settings of the key service are no address, mount, namespace and key",
                todo="The address is like https://openbao.example:8200; names have letters, digits, '-', '_' and '.'.",
                mount=self.mount,
                key=self.key,
            )
        if address[1] == "http" and address[2] not in _LOOPBACK and not self.plain_http:
            raise UsageError(
                "the key service would be asked over the network without TLS",
                todo="Use https, or allow plain http where the network itself protects what it carries.",
                address=self.address,
            )


class TransitKeys:
    """The key service of one transit key, as `service.KeyService` says. Retries what may pass, within bounds.

    Args:
        options: which server and key.
        token: gives the token to use, asked for each request, so that a renewed one counts at once.
    """

    def __init__(self, options: TransitOptions, *, token: Callable[[], str]) -> None:
        self._options = options
        self._token = token
        self._local = threading.local()  # requests' sessions are not safe to share
        self._usable = False
        self._retrying = stamina.RetryingCaller(
            attempts=options.attempts, timeout=options.seconds, wait_initial=0.1, wait_max=2.0, wait_jitter=0.2
        ).on(_is_transient)

    @property
    def kek(self) -> str:
        """`transit:[<namespace>/]<mount>/<key>`; the server's address is not part of it, so that it may change."""
        options = self._options
        return "transit:" + "/".join(part for part in (options.namespace, options.mount, options.key) if part)

    def current(self) -> int:
        """The latest version of the key.

        Raises:
            UsageError: the key is of a type that can't wrap, or needs a context.
            VeraError: as `service.KeyService` says.
        """
        return self._latest()[0]

    def made(self) -> datetime:
        """When the server made the latest version of the key.

        Raises:
            UsageError, VeraError: as `current`.
        """
        return self._latest()[1]

    def _latest(self) -> tuple[int, datetime]:
        """The latest version of the key, once it is known to be one that can wrap, and when it was made."""
        key = self._ask(self._url("keys"))
        try:
            kind, derived, latest = key["type"], key["derived"], int(key["latest_version"])
        except (KeyError, TypeError, ValueError):
            raise self._nonsense() from None
        if kind not in KEY_TYPES or derived:
            raise UsageError(
                f"the transit key can't wrap VERA's keys: its type is {kind}{', derived' if derived else ''}",
                todo="Make one of type aes256-gcm96 that is not derived.",
                kek=self.kek,
            )
        try:
            made = datetime.fromtimestamp(int(key["keys"][str(latest)]), UTC)
        except (KeyError, TypeError, ValueError, OverflowError, OSError):
            raise self._nonsense() from None
        self._usable = True
        return latest, made

    def version(self, wrapped: bytes) -> int:
        """The version of the key in `vault:v<n>:...`.

        Raises:
            IntegrityError: nothing that a transit engine wrapped.
        """
        found = _WRAPPED.fullmatch(wrapped)
        if found is None:
            raise self._altered()
        return int(found[1])

    def wrap(self, payloads: Sequence[bytes]) -> list[bytes]:
        """Transit's ciphertexts, `vault:v<n>:...`, all or none.

        Raises:
            VeraError: as `service.KeyService` says.
        """
        if not self._usable:
            self.current()  # a server may make a key that is missing: then a misspelt name would wrap
        plain = [{"plaintext": base64.b64encode(payload).decode()} for payload in payloads]
        wrapped = []
        for result in self._batches("encrypt", plain):
            outcome = self._outcome(result, _ciphertext)
            if isinstance(outcome, VeraError):
                raise outcome
            wrapped.append(outcome)
        return wrapped

    def unwrap(self, wrapped: Sequence[bytes]) -> list[Outcome[bytes]]:
        """The payloads, one outcome for each.

        Raises:
            VeraError: as `service.KeyService` says.
        """
        return self._each("decrypt", wrapped, _payload)

    def rewrap(self, wrapped: Sequence[bytes]) -> list[Outcome[bytes]]:
        """The same payloads under the latest version, one outcome for each. The payloads stay in the service.

        Raises:
            VeraError: as `service.KeyService` says.
        """
        return self._each("rewrap", wrapped, _ciphertext)

    def rotate(self) -> int:
        """Makes a new version of the key; returns its number. Sent once: after a lost answer, look before again.

        Raises:
            VeraError: as `service.KeyService` says.
        """
        self.current()
        try:
            self._client().adapter.post(self._url("keys") + "/rotate")
        except (sdk.VaultError, OSError) as error:
            raise self._translated(error) from error
        return self.current()

    def _each(
        self, action: str, wrapped: Sequence[bytes], read: Callable[[dict[str, Any]], bytes]
    ) -> list[Outcome[bytes]]:
        """One outcome for each item; what no transit engine wrapped is not sent."""
        outcomes: list[Outcome[bytes]] = [self._altered() for _ in wrapped]
        sent = [number for number, item in enumerate(wrapped) if _WRAPPED.fullmatch(item)]
        results = self._batches(action, [{"ciphertext": wrapped[number].decode()} for number in sent])
        for number, result in zip(sent, results, strict=True):
            outcomes[number] = self._outcome(result, read)
        return outcomes

    def _outcome(self, result: dict[str, Any], read: Callable[[dict[str, Any]], bytes]) -> Outcome[bytes]:
        """What the service's result for one item says."""
        if result.get("error"):
            return self._item_error(str(result["error"]))
        try:
            return read(result)
        except (KeyError, TypeError, ValueError, AttributeError):
            return self._nonsense()

    def _batches(self, action: str, items: Sequence[dict[str, str]]) -> Iterator[dict[str, Any]]:
        """The service's results, one for each item in order."""
        url = self._url(action)
        for start in range(0, len(items), BATCH):
            batch = items[start : start + BATCH]
            results = self._ask(url, {"batch_input": batch}).get("batch_results")
            if not isinstance(results, list) or len(results) != len(batch) or {*map(type, results)} != {dict}:
                raise self._nonsense()
            yield from results

    def _ask(self, url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The data of the service's answer to a POST of `body`, or to a GET. Safe to repeat, so it is retried."""

        def request() -> Any:
            adapter = self._client().adapter
            return adapter.get(url) if body is None else adapter.post(url, json=body)

        try:
            answer = self._retrying(request)
        except sdk.InvalidRequest as error:
            # So it answers too where some items, or all, have an error: which, is in the results.
            if not isinstance(error.json, dict) or "data" not in error.json:
                raise self._translated(error) from error
            answer = error.json
        except (sdk.VaultError, OSError) as error:
            raise self._translated(error) from error
        data = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(data, dict):
            raise self._nonsense()
        return data

    def _client(self) -> hvac.Client:
        options = self._options
        token = self._token().strip()
        if not token.isascii() or not token.isprintable():
            raise UsageError("the token of the key service has characters that no token has", kek=self.kek)
        if not hasattr(self._local, "client"):
            self._local.client = hvac.Client(
                options.address,
                token=token,
                timeout=options.timeout,
                verify=str(options.authority) if options.authority else True,
                namespace=options.namespace or None,
                allow_redirects=False,  # the token is for this server
            )
        client: hvac.Client = self._local.client
        client.token = token
        return client

    def _url(self, action: str) -> str:
        return f"/v1/{self._options.mount}/{action}/{self._options.key}"

    def _translated(self, error: sdk.VaultError | OSError) -> VeraError:
        """What went wrong with a whole request."""
        said = " ".join(str(error.args[0] if error.args else error).split())
        kind, what, todo = _explain(error, said)
        return kind(what, todo=todo, kek=self.kek, address=self._options.address, answer=said[:_SHOWN])

    def _item_error(self, said: str) -> VeraError:
        """What went wrong with one item of a batch."""
        if "disallowed by policy" in said:
            return RestrictedError(
                "the key service no longer unwraps with this version of the KEK",
                todo="Lower the key's min_decryption_version, rewrap the keyrings, then raise it again.",
                kek=self.kek,
                answer=said,
            )
        if "authentication failed" in said or "invalid ciphertext" in said:
            return self._altered(said)
        return UnavailableError("the key service refuses one of many", todo="Run it again.", kek=self.kek, answer=said)

    def _altered(self, said: str | None = None) -> IntegrityError:
        return IntegrityError(
            "the key service does not unwrap this key: it was altered, or wrapped by another KEK",
            todo="Check that the transit key is this repository's; restore the keyring from a registered copy.",
            kek=self.kek,
            answer=said,
        )

    def _nonsense(self) -> UnavailableError:
        return UnavailableError(
            "the key service's answer is none",
            todo="Check that the address is that of an OpenBao or Vault server, and not of a standby that redirects.",
            kek=self.kek,
            address=self._options.address,
        )


def _payload(result: dict[str, Any]) -> bytes:
    return base64.b64decode(result["plaintext"], validate=True)


def _ciphertext(result: dict[str, Any]) -> bytes:
    wrapped: bytes = result["ciphertext"].encode()
    if not _WRAPPED.fullmatch(wrapped):
        raise ValueError
    return wrapped


def _is_transient(error: Exception) -> bool:
    return isinstance(error, _TRANSIENT)


def _explain(error: Exception, said: str) -> tuple[type[VeraError], str, str]:
    """(error, what, what to do) for a failed request."""
    if isinstance(error, (sdk.Forbidden, sdk.Unauthorized)):
        return (
            RestrictedError,
            "the key service denies access",
            "Renew the token, or let its policy allow `update` on encrypt, decrypt and rewrap and `read` on keys.",
        )
    if isinstance(error, sdk.InvalidPath) and "no handler" in said:
        return NotFoundError, "the key service has no transit engine there", "Enable it, or correct the mount."
    if isinstance(error, sdk.InvalidPath) or "key not found" in said:
        return (
            NotFoundError,
            "the key service has no such key",
            "Correct its name. If it was deleted, restore it from a backup: without it nothing can be read.",
        )
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return (
            UnavailableError,
            "no trusted TLS connection to the key service",
            "Name the authority that signed its certificate.",
        )
    if "sealed" in said:
        return UnavailableError, "the key service is sealed", "Unseal it, then run it again."
    if isinstance(error, _TRANSIENT):
        return (
            UnavailableError,
            "the key service does not answer, or answers that it can't for now",
            "Nothing is lost: check that it is up and reachable, then run it again.",
        )
    return UsageError, "the key service refuses the request", "Check the settings that it names."
