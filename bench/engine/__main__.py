"""`python -m bench.engine`."""

from bench.engine.runner import main

main()
