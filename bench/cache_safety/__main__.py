"""`python -m bench.cache_safety`."""

from bench.cache_safety.runner import main

main()
