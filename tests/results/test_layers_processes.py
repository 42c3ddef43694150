"""Writers in processes of their own fill one group; none of them loses another's member."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from django.conf import settings as django_settings

from async_cache.results.layers import get_cache_layer
from async_cache.results.records import Record

WRITERS, EACH = 4, 250
GROUP = "filled by processes"


def write(number: int, alias: str) -> None:
    """Save a writer's members, and every other one a second time, as when it is redelivered."""
    layer = get_cache_layer(alias)
    for i in range(EACH):
        record = Record(
            f"{number}-{i}", state="FAILURE" if i % 5 == 0 else "SUCCESS", group=GROUP,
            sequence=number * EACH + i,
        )  # fmt: skip
        assert layer.save(record)
        if i % 2:
            assert layer.save(record)


@pytest.mark.integration
@pytest.mark.parametrize("alias", ["redis", "memcached"])
def test_no_member_is_lost(alias: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue("redis_caches" if alias == "redis" else "memcached_cache")
    environment: dict[str, Any] = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        # What is tested is that nothing is lost, not how soon a busy machine answers.
        "TEST_SETTINGS": json.dumps(
            {
                "CACHES": django_settings.CACHES,
                "ASYNC_CACHE": {**django_settings.ASYNC_CACHE, "IO_TIMEOUT": 5},
            }
        ),
        "TEST_DIRECTORY": str(django_settings.DIRECTORY),
    }
    writers = [
        subprocess.Popen([sys.executable, "-m", __name__, str(number), alias], env=environment)
        for number in range(WRITERS)
    ]
    assert [writer.wait(120) for writer in writers] == [0] * WRITERS
    layer, n = get_cache_layer(alias), WRITERS * EACH
    assert layer.count(GROUP) == (n * 4 // 5, n // 5)
    assert [record.sequence for record in layer.group(GROUP)] == list(range(n))
    assert layer.delete_group(GROUP) == n


if __name__ == "__main__":
    import django

    django.setup()
    write(int(sys.argv[1]), sys.argv[2])
