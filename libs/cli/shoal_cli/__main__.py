"""`python -m shoal_cli` is `shoal`."""

from shoal_cli.main import main

main()
