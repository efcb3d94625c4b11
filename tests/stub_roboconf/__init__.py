"""A stand-in for Roboconf's agent: its archive's layout, its configuration files, its RabbitMQ objects and heartbeat.

What it stands in for is said in the Roboconf agents' code (roboconf-platform, 0.6 to 0.9.1); it needs Python alone, so
that tests run where neither Maven Central nor a Java 8 can be had. `archive.make` writes the tarball.
"""
