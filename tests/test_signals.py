"""What the core announces, and how logging listens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.dispatch import Signal

from async_cache import listeners, signals
from async_cache.exceptions import UnknownJob
from async_cache.signals import Announcement, announce

SECRET = "hunter2"

PAYLOADS: dict[str, dict[str, Any]] = {
    "refresh_dispatched": {"job": "j", "key": "k", "dispatcher": "celery", "task_id": "t"},
    "refresh_started": {"job": "j", "key": "k"},
    "refresh_committed": {"job": "j", "key": "k", "seconds": 1.0, "size": 3, "stale": False},
    "refresh_failed": {
        "job": "j",
        "key": "k",
        "seconds": 1.0,
        "error": ValueError(SECRET),
        "error_type": "ValueError",
        "retry_after": 2.0,
    },
    "refresh_refused": {"job": "j", "key": "k", "reason": "lost"},
    "refresh_dropped": {"job": "j", "key": "k", "reason": "unknown"},
    "refresh_unanswered": {"job": "j", "key": "k", "attempts": 2},
    "refresh_coalesced": {"job": "j", "key": "k"},
    "entry_rejected": {"job": "j", "key": "k", "reason": "seal"},
    "call_uncached": {"job": "j", "key": "k", "max_keys": 5},
    "scope_invalidated": {"scope": "key", "hard": True, "job": "j", "key": "k", "tags": ()},
    "store_failed": {
        "alias": "default",
        "operation": "read",
        "error": OSError(SECRET),
        "error_type": "OSError",
    },
    "store_recovered": {"alias": "default", "seconds": 3.0},
    "dispatch_failed": {
        "dispatcher": "celery",
        "job": "j",
        "count": 2,
        "error": OSError(SECRET),
        "error_type": "OSError",
    },
    "dispatch_recovered": {"dispatcher": "celery", "seconds": 3.0},
}


@pytest.fixture
def signal() -> Announcement:
    return Announcement()


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    listeners.limit.clear()
    listeners.connect()
    with caplog.at_level(logging.DEBUG, logger="async_cache"):
        yield caplog
    listeners.limit.clear()


def every_signal() -> dict[str, Signal]:
    return {name: value for name, value in vars(signals).items() if isinstance(value, Signal)}


class TestAnnounce:
    def test_listeners_get_sender_and_payload(self, signal: Announcement) -> None:
        seen: list[dict[str, Any]] = []

        def listener(**payload: Any) -> None:
            seen.append(payload)

        class Job: ...

        signal.connect(listener)
        announce(signal, sender=Job, job="shop.Rates", key="abc")
        assert seen == [{"signal": signal, "sender": Job, "job": "shop.Rates", "key": "abc"}]

    def test_without_listeners_nothing_is_sent(self) -> None:
        class Loud(Announcement):
            def send_robust(self, *args: Any, **kwargs: Any) -> Any:
                raise AssertionError("sent to nobody")

        announce(Loud(), job="shop.Rates")

    def test_a_listener_that_raises_breaks_nothing_and_is_logged_by_type(
        self, signal: Announcement, caplog: pytest.LogCaptureFixture
    ) -> None:
        seen: list[str] = []

        def broken(**_: Any) -> None:
            raise ValueError(SECRET)

        def sound(job: str, **_: Any) -> None:
            seen.append(job)

        signal.connect(broken)
        signal.connect(sound)
        with caplog.at_level(logging.DEBUG):
            announce(signal, job="shop.Rates")
        assert seen == ["shop.Rates"]
        (record,) = caplog.records
        assert record.name == "async_cache"
        assert "broken raised ValueError" in record.getMessage()
        assert SECRET not in caplog.text

    def test_a_coroutine_cannot_listen(self, signal: Announcement) -> None:
        async def listener(**_: Any) -> None: ...

        with pytest.raises(TypeError, match="plain function"):
            signal.connect(listener)
        assert not signal.receivers

    def test_error_names(self) -> None:
        assert signals.error_name(ValueError()) == "ValueError"
        assert signals.error_name(UnknownJob()) == "async_cache.exceptions.UnknownJob"

    def test_each_signal_is_public_and_documented(self) -> None:
        assert every_signal().keys() == PAYLOADS.keys()
        for name in every_signal():
            assert name in signals.__all__
            assert f"\n{name} " in (signals.__doc__ or "")


class TestLogging:
    def test_nothing_logs_a_value_and_no_listener_fails(
        self, logged: pytest.LogCaptureFixture
    ) -> None:
        for name, signal in every_signal().items():
            announce(signal, **PAYLOADS[name])
        assert logged.records
        assert SECRET not in logged.text
        assert not [record for record in logged.records if record.levelno >= logging.ERROR]

    @pytest.mark.parametrize(
        ("name", "named"),
        [
            ("refresh_failed", ["j", "ValueError", "2.0 s"]),
            ("refresh_refused", ["j", "`lease`"]),
            ("refresh_dropped", ["j", "JOB_MODULES"]),
            ("refresh_unanswered", ["j", "2", "worker"]),
            ("entry_rejected", ["j", "seal", "SECRET_KEY_FALLBACKS"]),
            ("call_uncached", ["j", "max_keys=5"]),
            ("store_failed", ["default", "read", "OSError"]),
            ("dispatch_failed", ["celery", "2", "OSError", "broker"]),
        ],
    )
    def test_a_warning_names_the_thing_and_the_remedy(
        self, name: str, named: list[str], logged: pytest.LogCaptureFixture
    ) -> None:
        announce(every_signal()[name], **PAYLOADS[name])
        (record,) = logged.records
        assert (record.name, record.levelno) == ("async_cache", logging.WARNING)
        for word in named:
            assert word in record.getMessage()

    @pytest.mark.parametrize(
        ("name", "change"),
        [
            ("refresh_refused", {"reason": "overtaken"}),
            ("refresh_dropped", {"reason": "fresh"}),
            ("refresh_dropped", {"reason": "held"}),
            ("refresh_committed", {}),
            ("scope_invalidated", {}),
        ],
    )
    def test_what_is_usual_is_not_logged(
        self, name: str, change: dict[str, Any], logged: pytest.LogCaptureFixture
    ) -> None:
        announce(every_signal()[name], **{**PAYLOADS[name], **change})
        assert not logged.records

    @pytest.mark.parametrize("reason", ["unknown", "forged", "expired"])
    def test_each_kind_of_dropped_message_has_its_remedy(
        self, reason: str, logged: pytest.LogCaptureFixture
    ) -> None:
        announce(signals.refresh_dropped, job="j", key="k", reason=reason)
        assert len(logged.records) == 1

    def test_one_warning_a_minute_for_each_job(
        self, logged: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = [0.0]
        monkeypatch.setattr(listeners.limit, "_clock", lambda: now[0])
        for job in ("a", "a", "b", "a"):
            announce(signals.call_uncached, job=job, key="k", max_keys=1)
        assert len(logged.records) == 2
        now[0] = 60.0
        announce(signals.call_uncached, job="a", key="k", max_keys=1)
        assert len(logged.records) == 3
        assert "2 more since" in logged.records[-1].getMessage()

    def test_connecting_twice_logs_once(self, logged: pytest.LogCaptureFixture) -> None:
        listeners.connect()
        announce(signals.call_uncached, job="j", key="k", max_keys=1)
        assert len(logged.records) == 1

    def test_disconnected(self, logged: pytest.LogCaptureFixture) -> None:
        listeners.disconnect()
        try:
            announce(signals.call_uncached, job="j", key="k", max_keys=1)
            assert not logged.records
        finally:
            listeners.connect()


class TestRateLimit:
    @staticmethod
    def make(**options: Any) -> tuple[listeners.RateLimit, Callable[[float], None]]:
        now = [0.0]

        def move(seconds: float) -> None:
            now[0] += seconds

        return listeners.RateLimit(clock=lambda: now[0], **options), move

    def test_counts_what_it_left_out(self) -> None:
        limit, move = self.make(seconds=60)
        assert limit.admit("failed", "a") == 0
        assert limit.admit("failed", "a") is None
        assert limit.admit("lost", "a") == 0
        move(59)
        assert limit.admit("failed", "a") is None
        move(1)
        assert limit.admit("failed", "a") == 2
        move(60)
        assert limit.admit("failed", "a") == 0

    def test_is_bounded(self) -> None:
        limit, _ = self.make(max_keys=10)
        for number in range(1000):
            limit.admit("failed", str(number))
        assert len(limit) == 10
        assert limit.admit("failed", "999") is None
        assert limit.admit("failed", "0") == 0

    def test_the_one_admitted_longest_ago_is_forgotten(self) -> None:
        limit, move = self.make(max_keys=2)
        limit.admit("failed", "a")
        limit.admit("failed", "b")
        move(60)
        limit.admit("failed", "a")
        limit.admit("failed", "c")
        assert limit.admit("failed", "a") is None
