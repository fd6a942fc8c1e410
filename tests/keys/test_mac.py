"""HMAC-SHA-256 is what the standard library says it is."""

from __future__ import annotations

import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vera_core.keys.mac import Mac, hmac_sha256


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300))
def test_it_is_the_standard_librarys(key: bytes, message: bytes) -> None:
    assert hmac_sha256(key, message) == hmac.digest(key, message, "sha256")


@pytest.mark.parametrize("size", [0, 1, 2047 - 64, 2048, 16 << 10, 100_000])
def test_whatever_the_size(size: int) -> None:
    message = bytes(range(256)) * (size // 256 + 1)
    assert hmac_sha256(b"k" * 32, message[:size]) == hmac.digest(b"k" * 32, message[:size], "sha256")
    mac = Mac(b"k" * 32)
    assert mac.digest(message[:size]) == mac.digest_alone(message[:size]) == hmac_sha256(b"k" * 32, message[:size])
