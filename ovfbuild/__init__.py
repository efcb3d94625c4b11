"""ovfbuild: one TOML file becomes an OVF virtual appliance. Read `pipeline.py` first."""

__version__ = "0.1.0"
