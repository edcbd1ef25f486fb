"""`python -m mspgt_tl.cli`."""

from mspgt_tl.cli import main

main()
