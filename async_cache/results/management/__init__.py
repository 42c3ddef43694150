"""What ``manage.py async_cache`` offers for results."""
