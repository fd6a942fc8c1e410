"""The transit engine of a real OpenBao: batches, rotations, and every way in which it can refuse."""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.authority import make_authority
from tests.keys.support import error_of, make_keyring, wanted
from tests.store.proxy import Fault, FaultyProxy, Message
from vera_core.errors import (
    IntegrityError,
    NotFoundError,
    RestrictedError,
    UnavailableError,
    UsageError,
    VeraError,
)
from vera_core.keys.envelope import Envelope, rewrap_envelopes
from vera_core.keys.keyring import open_keyrings, seal_keyrings
from vera_core.keys.service import KeyService, good
from vera_core.keys.tenant import TenantKey
from vera_core.keys.transit import BATCH, TransitKeys, TransitOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.openbao import OpenBao

PAYLOADS = [bytes([number]) * 64 for number in range(3)]
ONCE: dict[str, Any] = {"attempts": 1}


@pytest.fixture
def proxy(openbao: OpenBao) -> Iterator[FaultyProxy]:
    with FaultyProxy(openbao.address) as between:
        yield between


def configure(openbao: OpenBao, service: TransitKeys, **settings: object) -> None:
    openbao.root.write_data(f"transit/keys/{name_of(service)}/config", data=settings)


def name_of(service: TransitKeys) -> str:
    return service.kek.rpartition("/")[2]


def reply(status: int, body: object) -> Message:
    return Message((("Content-Type", "application/json"),), json.dumps(body).encode(), status)


def calls(service: TransitKeys) -> list[Callable[[], object]]:
    """Every kind of call, with items that look right."""
    item = b"vault:v1:AAAA"
    return [
        lambda: service.wrap(PAYLOADS),
        lambda: service.unwrap([item]),
        lambda: service.rewrap([item]),
        service.current,
        service.rotate,
    ]


def test_it_is_a_key_service(openbao: OpenBao) -> None:
    service: KeyService = openbao.keys()
    wrapped = service.wrap(PAYLOADS)
    assert service.unwrap(wrapped) == PAYLOADS
    assert service.current() == 1
    assert {service.version(item) for item in wrapped} == {1}
    assert len(set(service.wrap([b"same"] * 5))) == 5
    assert service.unwrap([]) == service.rewrap([]) == service.wrap([]) == []


def test_keyrings_and_tenant_keys_go_through_it(openbao: OpenBao) -> None:
    service = openbao.keys()
    keyrings = [make_keyring(f"shard {number}") for number in range(3)]
    stored = seal_keyrings(service, keyrings)
    assert good(open_keyrings(service, [(wanted(k), d) for k, d in zip(keyrings, stored, strict=True)])) == keyrings
    assert {len(data) < 400 for data in stored} == {True}
    key = TenantKey.fresh(b"R" * 16, "default")
    assert TenantKey.open(service, b"R" * 16, "default", key.seal(service)) == key


def test_batches_of_400_whatever_is_asked(openbao: OpenBao, proxy: FaultyProxy) -> None:
    service = openbao.keys(address=proxy.url)
    payloads = [os.urandom(64) for _ in range(2 * BATCH + 1)]
    wrapped = service.wrap(payloads)
    assert service.unwrap(wrapped) == payloads
    assert service.unwrap(good(service.rewrap(wrapped))) == payloads
    actions = [path.split("/")[-2] for _, path in proxy.seen]
    assert {action: actions.count(action) for action in set(actions)} == {
        "keys": 1,
        "encrypt": 3,
        "decrypt": 6,
        "rewrap": 3,
    }


def test_bad_items_of_a_batch_are_named_and_none_is_dropped(openbao: OpenBao) -> None:
    service, other = openbao.keys(), openbao.keys()
    wrapped = service.wrap([os.urandom(64) for _ in range(BATCH + 10)])
    bad = {
        3: other.wrap([b"wrapped by another key"])[0],
        7: wrapped[7][:-8] + b"AAAAAAA=",
        8: b"vault:v9:" + wrapped[8][9:],
        9: b"vault:v1:AAAA",
        11: b"",
        12: b"\xff\xfe",
        13: b"local:v1:AAAA",
        14: b"vault:v1:" + b"not base64",
        BATCH + 5: b"vault:v1:" + base64.b64encode(bytes(80)),
    }
    given = [bad.get(number, item) for number, item in enumerate(wrapped)]
    for call in (service.unwrap, service.rewrap):
        outcomes = call(given)
        assert len(outcomes) == len(given)
        assert {number for number, outcome in enumerate(outcomes) if isinstance(outcome, VeraError)} == set(bad)
        for number in bad:
            assert error_of(outcomes[number], IntegrityError).where["kek"] == service.kek
    assert [type(outcome) for outcome in service.unwrap([bad[3]])] == [IntegrityError]


def test_a_rotation_and_a_rewrap_go_on_while_keys_are_used(openbao: OpenBao) -> None:
    service = openbao.keys()
    keyring = make_keyring()
    before = Envelope.decode(seal_keyrings(service, [keyring])[0])
    assert service.rotate() == 2
    assert service.version(service.wrap([b"new"])[0]) == 2
    (after,) = good(rewrap_envelopes(service, [before]))
    assert (service.version(before.wrapped), service.version(after.wrapped)) == (1, 2)
    for envelope in (before, after):
        assert open_keyrings(service, [(wanted(keyring), envelope.encode())]) == [keyring]
    assert service.version(good(service.rewrap([after.wrapped]))[0]) == 2


def test_a_version_below_the_minimum_is_refused_by_name(openbao: OpenBao) -> None:
    service = openbao.keys()
    old = service.wrap([b"old"])
    service.rotate()
    new = service.wrap([b"new"])
    configure(openbao, service, min_decryption_version=2)
    for call in (service.unwrap, service.rewrap):
        outcomes = call([old[0], new[0]])
        assert "min_decryption_version" in error_of(outcomes[0], RestrictedError).todo
        assert isinstance(outcomes[1], bytes)
        error_of(call(old)[0], RestrictedError)
    configure(openbao, service, min_decryption_version=1)
    assert service.unwrap(old) == [b"old"]


def test_a_missing_key_is_never_made(openbao: OpenBao) -> None:
    made = openbao.keys()
    service = TransitKeys(TransitOptions(openbao.address, "misspelt"), token=lambda: openbao.root.token)
    for call in calls(service):
        with pytest.raises(NotFoundError, match="no such key") as caught:
            call()
        assert caught.value.where["kek"] == "transit:transit/misspelt"
    assert "misspelt" not in openbao.root.secrets.transit.list_keys()["data"]["keys"]
    assert name_of(made) in openbao.root.secrets.transit.list_keys()["data"]["keys"]


def test_a_missing_engine(openbao: OpenBao) -> None:
    service = TransitKeys(TransitOptions(openbao.address, "vera", mount="a/b"), token=lambda: openbao.root.token)
    for call in calls(service):
        with pytest.raises(NotFoundError, match="no transit engine"):
            call()


@pytest.mark.parametrize("token", ["s.wrong", ""])
def test_a_wrong_token_is_denied(openbao: OpenBao, token: str) -> None:
    for call in calls(openbao.keys(token=token)):
        with pytest.raises(RestrictedError, match="denies"):
            call()


def test_a_token_that_cannot_be_sent_is_not_shown(openbao: OpenBao) -> None:
    service = openbao.keys(token="s.secret\nX-Evil: 1")
    with pytest.raises(UsageError) as caught:
        service.wrap(PAYLOADS)
    assert "secret" not in str(caught.value)


def test_a_token_with_the_documented_policy_is_enough(openbao: OpenBao) -> None:
    service = openbao.keys(key="documented")
    policy = """
        path "transit/keys/documented"    { capabilities = ["read"] }
        path "transit/encrypt/documented" { capabilities = ["update"] }
        path "transit/decrypt/documented" { capabilities = ["update"] }
        path "transit/rewrap/documented"  { capabilities = ["update"] }
    """
    given = openbao.token(policy)
    service = TransitKeys(TransitOptions(openbao.address, "documented"), token=lambda: f"{given}\n")
    wrapped = service.wrap(PAYLOADS)
    assert service.unwrap(good(service.rewrap(wrapped))) == PAYLOADS
    with pytest.raises(RestrictedError, match="denies"):
        service.rotate()


def test_a_renewed_token_counts_at_once(openbao: OpenBao) -> None:
    tokens = ["s.expired"]
    openbao.keys(key="renewed")
    service = TransitKeys(TransitOptions(openbao.address, "renewed"), token=lambda: tokens[-1])
    with pytest.raises(RestrictedError):
        service.wrap(PAYLOADS)
    tokens.append(openbao.root.token)
    assert service.unwrap(service.wrap(PAYLOADS)) == PAYLOADS


def test_a_sealed_service_fails_closed_and_comes_back(openbao: OpenBao) -> None:
    service = openbao.keys(attempts=2)
    wrapped = service.wrap(PAYLOADS)
    openbao.seal()
    try:
        for call in calls(service):
            with pytest.raises(UnavailableError, match="sealed") as caught:
                call()
            assert "Unseal" in caught.value.todo
    finally:
        openbao.unseal()
    assert service.unwrap(wrapped) == PAYLOADS


def test_an_unreachable_service(openbao: OpenBao) -> None:
    with FaultyProxy(openbao.address) as gone:
        service = openbao.keys(address=gone.url, attempts=2)
    for call in calls(service):
        with pytest.raises(UnavailableError, match="does not answer") as caught:
            call()
        assert caught.value.where["address"] == gone.url


def test_a_slow_service_is_given_up_after_its_time(openbao: OpenBao, proxy: FaultyProxy) -> None:
    patient = openbao.keys(key="slow", address=proxy.url)
    hasty = TransitKeys(
        TransitOptions(proxy.url, "slow", timeout=0.2, attempts=2), token=lambda: str(openbao.root.token)
    )
    wrapped = patient.wrap(PAYLOADS)
    hold = threading.Event()

    def slow(message: Message) -> Message:
        hold.wait(20)
        return message

    proxy.faults.append(Fault(path="*/decrypt/*", reply=slow, times=2))
    begun = time.monotonic()
    with pytest.raises(UnavailableError, match="does not answer"):
        hasty.unwrap(wrapped)
    assert time.monotonic() - begun < 10
    hold.set()
    assert patient.unwrap(wrapped) == PAYLOADS


@pytest.mark.parametrize(
    "fault",
    [
        {"lose": True},
        {"cut": 10},
        {"answer": reply(503, {"errors": ["Vault is sealed"]})},
        {"answer": reply(500, {"errors": ["internal error"]})},
        {"answer": reply(429, {"errors": ["request path: rate limit quota exceeded"]})},
        {"answer": reply(504, {})},
    ],
    ids=["lost", "cut", "sealed", "500", "429", "504"],
)
def test_what_may_pass_is_tried_again(openbao: OpenBao, proxy: FaultyProxy, fault: dict[str, Any]) -> None:
    service = openbao.keys(address=proxy.url)
    proxy.faults += [Fault(path=f"*/{action}/*", **fault) for action in ("keys", "encrypt", "decrypt", "rewrap")]
    wrapped = service.wrap(PAYLOADS)
    assert service.unwrap(good(service.rewrap(wrapped))) == PAYLOADS
    assert not proxy.faults or all(left.times == 0 for left in proxy.faults)


def test_a_rotation_is_sent_once(openbao: OpenBao, proxy: FaultyProxy) -> None:
    service = openbao.keys(address=proxy.url)
    proxy.faults.append(Fault(path="*/rotate", lose=True))
    with pytest.raises(UnavailableError):
        service.rotate()
    assert service.current() == 2
    assert [path for _, path in proxy.seen if path.endswith("/rotate")] == [
        f"/v1/transit/keys/{name_of(service)}/rotate"
    ]


@pytest.mark.parametrize(
    "body",
    [
        [],
        None,
        {},
        {"data": None},
        {"data": {"batch_results": None}},
        {"data": {"batch_results": []}},
        {"data": {"batch_results": [{"plaintext": "AAAA"}]}},
        {"data": {"batch_results": [{"plaintext": "AAAA"}, 7, None]}},
    ],
)
def test_nonsense_is_no_answer(openbao: OpenBao, proxy: FaultyProxy, body: object) -> None:
    service = openbao.keys(address=proxy.url, **ONCE)
    wrapped = service.wrap(PAYLOADS)
    for call in (service.unwrap, service.rewrap):
        proxy.faults.append(Fault(path="*/transit/[dr]e*", answer=reply(200, body)))
        with pytest.raises(UnavailableError, match="answer is none"):
            call(wrapped)
    proxy.faults.append(Fault(path="*/encrypt/*", answer=reply(200, body)))
    with pytest.raises(UnavailableError, match="answer is none"):
        service.wrap(PAYLOADS)
    proxy.faults.append(Fault(path="*/transit/keys/*", answer=reply(200, body)))
    with pytest.raises(UnavailableError, match="answer is none"):
        service.current()


@pytest.mark.parametrize("result", [{}, {"plaintext": "!"}, {"plaintext": 7, "ciphertext": 7}, {"ciphertext": "plain"}])
def test_a_nonsensical_item_is_no_key(openbao: OpenBao, proxy: FaultyProxy, result: dict[str, Any]) -> None:
    service = openbao.keys(address=proxy.url, **ONCE)
    wrapped = service.wrap(PAYLOADS)
    answer = reply(200, {"data": {"batch_results": [result] * len(wrapped)}})
    for call in (service.unwrap, service.rewrap):
        proxy.faults.append(Fault(path="*/transit/[dr]e*", answer=answer))
        assert {isinstance(outcome, VeraError) for outcome in call(wrapped)} == {True}
    proxy.faults.append(Fault(path="*/encrypt/*", answer=answer))
    with pytest.raises(VeraError):
        service.wrap(PAYLOADS)


def test_only_a_trusted_server_gets_the_token(openbao: OpenBao, tmp_path: Path) -> None:
    authority, context = make_authority(tmp_path)
    with FaultyProxy(openbao.address, tls=context) as secure:
        with pytest.raises(UnavailableError, match="no trusted TLS"):
            openbao.keys(address=secure.url, **ONCE).wrap(PAYLOADS)
        assert secure.seen == []
        service = openbao.keys(address=secure.url, authority=authority)
        assert service.unwrap(service.wrap(PAYLOADS)) == PAYLOADS


def test_no_redirect_is_followed(openbao: OpenBao, proxy: FaultyProxy) -> None:
    """It would carry the token to wherever it leads."""
    service = openbao.keys(address=proxy.url, **ONCE)
    with FaultyProxy(openbao.address) as elsewhere:
        away = Message((("Location", f"{elsewhere.url}/v1/transit/keys/x"),), b"", 307)
        proxy.faults.append(Fault(answer=away))
        with pytest.raises(UnavailableError, match="answer is none"):
            service.current()
        assert elsewhere.seen == []


def test_when_the_current_version_was_made(openbao: OpenBao) -> None:
    began = datetime.now(UTC).replace(microsecond=0)
    keys = openbao.keys()
    first = keys.made()
    assert began <= first <= datetime.now(UTC)
    keys.rotate()
    assert first <= keys.made() <= datetime.now(UTC)


@pytest.mark.parametrize("options", [{"key_type": "ed25519"}, {"key_type": "rsa-2048"}, {"key_type": "aes128-gcm96"}])
def test_a_key_of_another_type_is_refused(openbao: OpenBao, options: dict[str, str]) -> None:
    service = openbao.keys(**options)
    with pytest.raises(UsageError, match="its type is"):
        service.wrap(PAYLOADS)


def test_a_derived_key_is_refused(openbao: OpenBao) -> None:
    openbao.root.secrets.transit.create_key("derived", derived=True)
    service = TransitKeys(TransitOptions(openbao.address, "derived"), token=lambda: openbao.root.token)
    with pytest.raises(UsageError, match="derived"):
        service.wrap(PAYLOADS)


@pytest.mark.parametrize(
    "change",
    [
        {"address": "127.0.0.1:8200"},
        {"key": ""},
        {"key": "../sys/seal"},
        {"key": "a/b"},
        {"key": ".."},
        {"mount": "a/../b"},
        {"address": "https://user:password@openbao.example"},
        {"address": "https://openbao.example/v1"},
        {"address": "ftp://openbao.example"},
        {"mount": "/transit"},
        {"mount": "a//b"},
        {"namespace": "a b"},
    ],
)
def test_settings_that_there_are_not(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="settings"):
        TransitOptions(**{"address": "http://127.0.0.1:8200", "key": "vera", **change})


@pytest.mark.parametrize("host", ["openbao.example:8200", "10.0.0.1", "localhost.example", "127.0.0.1.example"])
def test_keys_go_over_the_network_with_tls_only(host: str) -> None:
    with pytest.raises(UsageError, match="without TLS"):
        TransitOptions(f"http://{host}", "vera")
    TransitOptions(f"https://{host}", "vera")
    TransitOptions(f"http://{host}", "vera", plain_http=True)


@pytest.mark.parametrize("address", ["http://localhost:8200", "http://[::1]:8200", "http://127.0.0.1/"])
def test_this_machine_needs_no_tls(address: str) -> None:
    TransitOptions(address, "vera")


def test_a_namespace_is_part_of_the_name() -> None:
    options = TransitOptions("http://127.0.0.1:8200", "vera", mount="a/b", namespace="bank")
    assert TransitKeys(options, token=str).kek == "transit:bank/a/b/vera"


def test_threads_share_it(openbao: OpenBao) -> None:
    service = openbao.keys()
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda number: service.unwrap(service.wrap([b"%d" % number] * 20)), range(40)))
    assert done == [[b"%d" % number] * 20 for number in range(40)]
