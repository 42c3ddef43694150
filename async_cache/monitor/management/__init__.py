"""Subcommands of ``manage.py async_cache`` for the monitor."""
