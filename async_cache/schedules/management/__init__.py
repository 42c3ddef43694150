"""Subcommands of ``manage.py async_cache`` for schedules."""
