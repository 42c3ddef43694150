"""What ``manage.py check`` says about the monitor's settings."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import SystemCheckError

from async_cache.monitor.checks import check_section


def test_bad_settings_are_named(settings: Any) -> None:
    settings.ASYNC_CACHE = {"MONITOR": {"FLUSCH": 1, "PROCESSES": 0, "CACHE": "nowhere"}}
    found = {message.id: message.msg for message in check_section()}
    assert set(found) == {"async_cache_monitor.E001", "async_cache_monitor.E002"}
    assert '"nowhere", which is not in CACHES' in found["async_cache_monitor.E002"]
    with pytest.raises(SystemCheckError, match=r"(?s)'FLUSCH'.*PROCESSES"):
        call_command("check", "--tag", "async_cache")


def test_a_tenants_key_function(settings: Any) -> None:
    own = {**settings.CACHES["default"], "KEY_FUNCTION": "tests.monitor.test_checks.key"}
    settings.CACHES = {**settings.CACHES, "tenants": own}
    settings.ASYNC_CACHE = {"CACHE": "tenants"}
    [message] = check_section()
    assert message.id == "async_cache_monitor.W001"
    assert 'CACHES["tenants"]' in message.msg
    settings.ASYNC_CACHE = {"CACHE": "tenants", "MONITOR": {"CACHE": "default"}}
    assert check_section() == []


def test_good_settings_pass(settings: Any) -> None:
    settings.ASYNC_CACHE = {"MONITOR": {"FLUSH": 1, "KEEP_FAILED": None, "CACHE": "default"}}
    assert check_section() == []
