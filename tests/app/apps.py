"""The app of the test project."""

from django.apps import AppConfig


class TestsAppConfig(AppConfig):
    """Models and jobs that the tests cache."""

    name = "tests.app"
    label = "library"
