from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from actlake.storage.checksums import joiner


@given(a=st.binary(max_size=50), b=st.binary(max_size=50))
def test_parts_give_the_checksum_of_the_whole(a: bytes, b: bytes) -> None:
    assert joiner(len(b))(crc32c(a), crc32c(b)) == crc32c(a + b)
