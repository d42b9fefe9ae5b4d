"""`python -m edgectl`: the same as the command `edgectl`."""

from edgectl.cli import main

main()
