"""`python -m bench.gateway`."""

from bench.gateway.runner import main

main()
