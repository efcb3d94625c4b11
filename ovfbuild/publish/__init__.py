"""Packages reach clouds: one module a cloud behind `cloud.Cloud`, and one order of steps for all, `delivery`."""
