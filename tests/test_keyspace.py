from __future__ import annotations

import string
from datetime import date
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vera_core.errors import UsageError
from vera_core.keyspace import KeyKind, Keyspace, number_text, parse_number
from vera_core.model import Slot

if TYPE_CHECKING:
    from collections.abc import Callable

DAY = date(2026, 3, 1)
SLOT = Slot("acme", DAY, 0xA, 4)
DIGEST = bytes(range(32))
NAME = DIGEST[:16].hex()

names = st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,63}", fullmatch=True)
writers = names.filter(lambda name: name != "checkpoints")
numbers = st.integers(1, 999_999) | st.integers(1, 10**32 - 1)
digests = st.binary(min_size=32, max_size=32)
parts = st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters="/"), min_size=1, max_size=20)
prefixes = st.lists(parts.filter(lambda part: part not in {".", ".."}), max_size=3).map("/".join)
keyspaces = st.builds(Keyspace, prefixes)


@st.composite
def slots(draw: st.DrawFn) -> Slot:
    n_bits = draw(st.integers(0, 16))
    return Slot(draw(names), draw(st.dates()), draw(st.integers(0, (1 << n_bits) - 1)), n_bits)


def test_the_layout() -> None:
    keys = Keyspace("archive")
    assert keys.config(1) == "archive/config/000001.json"
    assert keys.slot_prefix(SLOT) == "archive/t/acme/20260301/A/"
    assert keys.shard(SLOT, DIGEST) == f"archive/t/acme/20260301/A/{NAME}.vera"
    assert keys.keyring(SLOT, DIGEST) == f"archive/t/acme/20260301/A/{NAME}.keys"
    assert keys.log(SLOT, 12) == "archive/t/acme/20260301/A/log/000012.json"
    assert keys.log_prefix(SLOT) == "archive/t/acme/20260301/A/log/"
    assert keys.sidecar(SLOT) == "archive/t/acme/20260301/A/.vera.meta"
    assert keys.manifest("acme", "orders", DAY, 2) == "archive/t/acme/windows/orders/20260301/000002.parquet"
    assert keys.inventory("acme", DAY, "A", 3) == "archive/t/acme/inventory/date=20260301/A-000003.parquet"
    assert keys.rejects("acme", "orders", DAY, 2) == "archive/t/acme/rejects/orders/20260301/000002.parquet"
    assert keys.proofs("acme", DAY) == "archive/t/acme/proofs/20260301.json"
    assert keys.request("acme", "art17-2026-04", 1) == "archive/t/acme/requests/art17-2026-04/000001.json"
    assert keys.disposal("acme", "year-2019", 1) == "archive/t/acme/disposals/year-2019/000001.json"
    assert keys.audit("host-1", 7) == "archive/audit/host-1/000007.json"
    assert keys.checkpoint(1) == "archive/audit/checkpoints/000001"
    assert keys.probe_prefix == "archive/probe/"
    assert Keyspace().sidecar(Slot("default", DAY, 0, 0)) == "t/default/20260301/0/.vera.meta"


@pytest.mark.parametrize("prefix", ["a/b", "a/b/", "/a/b", "/a/b/"])
def test_slashes_around_the_prefix_do_not_matter(prefix: str) -> None:
    assert Keyspace(prefix) == Keyspace("a/b")
    assert Keyspace(prefix).root == "a/b/"


def test_the_empty_prefix_is_the_whole_bucket() -> None:
    assert Keyspace("") == Keyspace("/") == Keyspace()
    assert Keyspace().root == ""
    assert Keyspace().config(1) == "config/000001.json"


@pytest.mark.parametrize(
    "prefix", ["a//b", "///", "a/../b", "..", "./a", "a\nb", "a/\x00", "\ud800", "x" * 513, "ü" * 257]
)
def test_bad_prefixes_are_refused(prefix: str) -> None:
    with pytest.raises(UsageError, match="prefix"):
        Keyspace(prefix)


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "A", "ä", "a b", ".a", "a\n", "x" * 65, "١"])
def test_names_that_would_leave_their_place_are_refused(name: str) -> None:
    keys = Keyspace("p")
    calls: tuple[Callable[[], str], ...] = (
        lambda: keys.tenant_prefix(name),
        lambda: keys.slot_prefix(Slot(name, DAY, 0, 0)),
        lambda: keys.manifest(name, "s", DAY, 1),
        lambda: keys.manifest("t", name, DAY, 1),
        lambda: keys.inventory(name, DAY, "0", 1),
        lambda: keys.request(name, "r", 1),
        lambda: keys.disposal(name, "r", 1),
        lambda: keys.disposal("t", name, 1),
        lambda: keys.request("t", name, 1),
        lambda: keys.audit(name, 1),
    )
    for call in calls:
        with pytest.raises(UsageError, match="no valid"):
            call()


def test_other_parts_that_cannot_stand_in_a_key_are_refused() -> None:
    keys = Keyspace()
    with pytest.raises(UsageError, match="checkpoints"):
        keys.audit("checkpoints", 1)
    for slot in (Slot("a", DAY, 1, 0), Slot("a", DAY, -1, 4), Slot("a", DAY, 16, 4), Slot("a", DAY, 0, 17)):
        with pytest.raises(UsageError, match="no slot"):
            keys.slot_prefix(slot)
    for digest in (b"", b"x" * 15, b"x" * 31, b"x" * 33):
        with pytest.raises(UsageError, match="digest"):
            keys.shard(SLOT, digest)
    for index in ("", "a", "0x", "FFFFF", "../A", "A\n"):
        with pytest.raises(UsageError, match="index"):
            keys.inventory("acme", DAY, index, 1)
    for number in (0, -1, 10**32):
        with pytest.raises(UsageError, match="number"):
            keys.log(SLOT, number)


@given(numbers, numbers)
def test_numbers_sort_as_their_texts(one: int, two: int) -> None:
    assert (one < two) == (number_text(one) < number_text(two))
    assert parse_number(number_text(one)) == one


def test_numbers_beyond_six_digits_go_on_in_order() -> None:
    texts = [number_text(n) for n in (1, 999_999, 1_000_000, 9_999_999, 10_000_000, 10**32 - 1)]
    assert texts == ["000001", "999999", "a1000000", "a9999999", "b10000000", "z" + "9" * 32]
    assert texts == sorted(texts)


@given(st.text(string.ascii_lowercase + string.digits + "-+_ ١²", max_size=12))
def test_only_canonical_texts_are_numbers(text: str) -> None:
    number = parse_number(text)
    assert number == 0 or number_text(number) == text


@given(keyspaces, slots(), digests, numbers)
def test_keys_of_a_slot_read_back(keys: Keyspace, slot: Slot, digest: bytes, number: int) -> None:
    for key, kind, name, count in (
        (keys.shard(slot, digest), KeyKind.SHARD, digest[:16].hex(), 0),
        (keys.keyring(slot, digest), KeyKind.KEYRING, digest[:16].hex(), 0),
        (keys.log(slot, number), KeyKind.LOG, "", number),
        (keys.sidecar(slot), KeyKind.SIDECAR, "", 0),
    ):
        parsed = keys.parse(key)
        assert (parsed.kind, parsed.digest, parsed.number, parsed.key) == (kind, name, count, key)
        assert (parsed.tenant, parsed.day, parsed.index_text) == (slot.tenant, slot.day, slot.index_text)
        assert parsed.slot(slot.n_bits) == slot
        assert key.startswith(keys.slot_prefix(slot))
        assert len(key.encode()) <= 1024
    assert keys.shard(slot, digest) == keys.shard(slot, digest[:16])


@given(keyspaces, names, names, st.dates(), numbers)
def test_other_keys_read_back(keys: Keyspace, tenant: str, source: str, day: date, number: int) -> None:
    manifest = keys.parse(keys.manifest(tenant, source, day, number))
    assert (manifest.kind, manifest.tenant, manifest.source) == (KeyKind.MANIFEST, tenant, source)
    assert (manifest.day, manifest.number) == (day, number)
    request = keys.parse(keys.request(tenant, source, number))
    assert (request.kind, request.tenant, request.request) == (KeyKind.REQUEST, tenant, source)
    assert request.number == number
    entry = keys.parse(keys.open_request(tenant, source))
    assert (entry.kind, entry.tenant, entry.request) == (KeyKind.OPEN_REQUEST, tenant, source)
    assert entry.key.startswith(keys.open_requests_prefix(tenant))
    walked = keys.parse(keys.requests_walked(tenant))
    assert (walked.kind, walked.tenant, walked.request) == (KeyKind.REQUESTS_WALKED, tenant, "")
    disposal = keys.parse(keys.disposal(tenant, source, number))
    assert (disposal.kind, disposal.tenant, disposal.request) == (KeyKind.DISPOSAL, tenant, source)
    assert disposal.number == number
    inventory = keys.parse(keys.inventory(tenant, day, "0F", number))
    assert (inventory.kind, inventory.tenant, inventory.day) == (KeyKind.INVENTORY, tenant, day)
    proofs = keys.parse(keys.proofs(tenant, day))
    assert (proofs.kind, proofs.tenant, proofs.day) == (KeyKind.PROOFS, tenant, day)
    assert (inventory.index_text, inventory.number) == ("0F", number)
    config = keys.parse(keys.config(number))
    assert (config.kind, config.number) == (KeyKind.CONFIG, number)
    checkpoint = keys.parse(keys.checkpoint(number))
    assert (checkpoint.kind, checkpoint.number, checkpoint.writer) == (KeyKind.CHECKPOINT, number, "")
    assert keys.parse(keys.probe_prefix + tenant).kind is KeyKind.PROBE


@given(keyspaces, writers, numbers)
def test_audit_keys_read_back(keys: Keyspace, writer: str, number: int) -> None:
    parsed = keys.parse(keys.audit(writer, number))
    assert (parsed.kind, parsed.writer, parsed.number) == (KeyKind.AUDIT, writer, number)


fragments = st.sampled_from(
    [
        "t",
        "acme",
        "20260301",
        "20260231",
        "A",
        "log",
        "000001.json",
        ".vera.meta",
        NAME + ".vera",
        "windows",
        "audit",
        "config",
        "checkpoints",
        "000001",
        "inventory",
        "date=20260301",
        "A-000001.parquet",
        "..",
        "",
        "\n",
        "probe",
        "p",
        "99999999",
    ]
)


@given(st.sampled_from(["", "p"]), st.text() | st.lists(fragments, max_size=7).map("/".join))
def test_any_string_parses_and_what_is_known_is_canonical(prefix: str, key: str) -> None:
    keys = Keyspace(prefix)
    parsed = keys.parse(key)
    assert parsed.key == key
    if parsed.kind in {KeyKind.SHARD, KeyKind.LOG, KeyKind.SIDECAR, KeyKind.KEYRING}:
        assert parsed.day is not None
        slot = parsed.slot(4 * len(parsed.index_text))
        assert key in {
            keys.sidecar(slot),
            keys.log(slot, parsed.number or 1),
            *(make(slot, bytes.fromhex(parsed.digest)) for make in (keys.shard, keys.keyring) if parsed.digest),
        }


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "p",
        "p/",
        "p/config/1.json",
        "p/config/000000.json",
        "p/config/0000001.json",
        "p/config/b1000000.json",
        "p/config/000001.json\n",
        "config/000001.json",
        "q/config/000001.json",
        "p/t/acme/20260231/A/.vera.meta",
        "p/t/acme/00000101/A/.vera.meta",
        "p/t/acme/20260301/a/.vera.meta",
        "p/t/acme/20260301/FFFFF/.vera.meta",
        "p/t/../20260301/A/.vera.meta",
        "p/t/ACME/20260301/A/.vera.meta",
        f"p/t/acme/20260301/A/{NAME.upper()}.vera",
        f"p/t/acme/20260301/A/{NAME}0.vera",
        "p/t/acme/20260301/A/log/٠٠٠٠٠١.json",
        "p/t/acme/２０２６０３０１/A/.vera.meta",
        "p/audit/checkpoints/000001.json",
        "p/audit/w/000001",
        "p/probe/",
        "p/t/acme/2026W011/A/.vera.meta",
    ],
)
def test_foreign_keys_are_unknown(key: str) -> None:
    assert Keyspace("p").parse(key).kind is KeyKind.UNKNOWN


@given(slots(), st.integers(0, 16))
def test_a_key_gives_its_slot_only_where_the_epoch_fits(slot: Slot, n_bits: int) -> None:
    parsed = Keyspace().parse(Keyspace().sidecar(slot))
    other = Slot(slot.tenant, slot.day, slot.index, n_bits)
    if other.index_text == slot.index_text and slot.index < 1 << n_bits:
        assert parsed.slot(n_bits) == other
    else:
        with pytest.raises(UsageError, match="no slot"):
            parsed.slot(n_bits)
    with pytest.raises(UsageError, match="no slot"):
        Keyspace().parse("config/000001.json").slot(n_bits)


@given(names, names)
def test_no_tenant_lies_under_another(one: str, two: str) -> None:
    keys = Keyspace("p")
    assert keys.tenant_prefix(two).startswith(keys.tenant_prefix(one)) == (one == two)
