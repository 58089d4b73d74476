"""Compressed bodies: what comes out is bounded, and damage is refused."""

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.needs import SERVE, need

need(*SERVE)

from robe_numba.serving.server.bodies import LEAST, coding_for, compress, decompress
from robe_numba.serving.server.refusals import RefusedError

CODINGS = {b"gzip": (gzip.compress, gzip.decompress), b"deflate": (zlib.compress, zlib.decompress)}


@pytest.mark.parametrize("coding", CODINGS)
@given(body=st.binary(max_size=300))
def test_bodies_come_out_as_they_went_in(coding, body):
    pack, unpack = CODINGS[coding]
    assert decompress(pack(body), coding, 300) == body
    assert unpack(compress(body, coding)) == body


@pytest.mark.parametrize("coding", CODINGS)
def test_a_bomb_is_refused_before_it_fills_the_memory(coding):
    bomb = CODINGS[coding][0](bytes(10**8))  # 100 kB
    assert decompress(bomb, coding, 10**8) == bytes(10**8)
    with pytest.raises(RefusedError, match="longer than 1000 bytes") as caught:
        decompress(bomb, coding, 1000)
    assert caught.value.status == 413


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda body: body[:-1], "ends too early"),
        (lambda body: b"", "ends too early"),
        (lambda body: body + b"more", "4 bytes follow"),
        (lambda body: b"{}" + body, "is not"),
    ],
)
def test_damaged_compression_is_refused(coding, damage, words):
    with pytest.raises(RefusedError, match=words) as caught:
        decompress(damage(CODINGS[coding][0](b"text")), coding, 100)
    assert caught.value.status == 400


def test_other_codings_are_refused():
    assert decompress(b"text", b"identity", 100) == b"text"
    with pytest.raises(RefusedError, match="is 'br'; use gzip or deflate") as caught:
        decompress(b"text", b"br", 100)
    assert caught.value.status == 415


def test_answers_are_compressed_where_it_is_worth_it():
    assert coding_for(b"deflate", LEAST) == b"deflate"
    assert coding_for(b"br, GZIP", LEAST) == b"gzip"
    assert coding_for(b"gzip", LEAST - 1) is None
    assert coding_for(b"br", LEAST) is None
