"""`python -m ovfbuild`."""

from ovfbuild.cli.main import main

main()
