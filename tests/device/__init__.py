"""Tests of the devices, on the host and on the emulated phone."""
