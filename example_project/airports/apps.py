"""The application of the example project."""

from django.apps import AppConfig


class AirportsConfig(AppConfig):
    """Airports of the world and their (made-up) weather."""

    name = "airports"
    default_auto_field = "django.db.models.BigAutoField"
