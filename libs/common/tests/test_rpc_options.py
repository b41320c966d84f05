"""Channel options are names that gRPC knows: it ignores a misspelt one without a word."""

from pathlib import Path

import grpc._cython.cygrpc
import pytest

from shoal_common.rpc import server


@pytest.mark.parametrize("name", [name for name, _ in server._OPTIONS])
def test_an_option_is_known_to_the_library(name: str) -> None:
    library = Path(grpc._cython.cygrpc.__file__).read_bytes()
    assert name.encode() + b"\0" in library
