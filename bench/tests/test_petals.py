"""The reason why a peer is missing, out of pip's many lines."""

from __future__ import annotations

from bench.peers.petals import said

OUTPUT = """  error: subprocess-exited-with-error
  x Building wheel did not run successfully.
      running build_py
      Downloading https://example.org/program
      error: <urlopen error [Errno -2] Name or service not known>
      [end of output]
ERROR: Failed building wheel
"""


def test_the_inner_error_is_named_with_what_led_to_it() -> None:
    assert said(OUTPUT) == (
        "Downloading https://example.org/program: "
        "error: <urlopen error [Errno -2] Name or service not known>"
    )


def test_without_an_error_the_last_line_is_named() -> None:
    assert said("a\n\nb\n") == "b"
    assert said("") == "pip said nothing"
