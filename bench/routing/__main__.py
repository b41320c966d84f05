"""`python -m bench.routing`."""

from bench.routing.runner import main

main()
