"""Build the distribution; all that it is stands in setup.cfg."""

from setuptools import setup

setup()
