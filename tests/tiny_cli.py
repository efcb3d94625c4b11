"""`python -m tests.tiny_cli …` is ovfbuild for guests of 512 bytes: their report port is a UART."""

from ovfbuild.cli.main import main
from ovfbuild.vm import hardware
from tests import tiny

hardware.REPORT_DEVICES = tiny.REPORT_DEVICES

if __name__ == "__main__":
    main()
