"""`python -m bench.peers`."""

from bench.peers.runner import main

main()
