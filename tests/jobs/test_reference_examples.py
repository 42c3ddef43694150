"""The examples that the package's users were first promised, with their slips mended."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote

import pytest
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.template import Context, Template
from django.test import RequestFactory

from async_cache import AsyncCacheJob, QuerySetFilterJob, QuerySetGetJob
from async_cache.testing import freeze
from tests.jobs.support import Shelf

pytestmark = pytest.mark.django_db(transaction=True)
BASE: list[str] = []
REQUESTS: list[str] = []


class Timeline(BaseHTTPRequestHandler):
    """Stands for the service of the example."""

    def do_GET(self) -> None:
        REQUESTS.append(self.path)
        name = unquote(self.path.partition("screen_name=")[2])
        body = json.dumps([{"text": f"{name} {len(REQUESTS)}"}]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Say nothing."""


@pytest.fixture
def service() -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Timeline)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    BASE[:] = [f"http://127.0.0.1:{server.server_port}"]
    REQUESTS.clear()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


class UserTweets(AsyncCacheJob[Any]):
    ttl = 60

    def fetch(self, username: str) -> Any:
        url = f"{BASE[0]}/statuses/user_timeline.json?screen_name={quote(username)}"
        with urllib.request.urlopen(url, timeout=30) as response:
            return json.loads(response.read())


def view(request: HttpRequest, username: str) -> HttpResponse:
    template = Template("{% for tweet in tweets %}{{ tweet.text }}{% endfor %}")
    return HttpResponse(template.render(Context({"tweets": UserTweets().get(username)})))


def user_detail(request: HttpRequest, username: str) -> HttpResponse:
    user = QuerySetGetJob(User).get(username=username)
    return HttpResponse(Template("{{ user.username }}").render(Context({"user": user})))


def staff(request: HttpRequest) -> HttpResponse:
    users = QuerySetFilterJob(User).filter(is_staff=True)
    names = "{% for user in users %}{{ user.username }} {% endfor %}"
    return HttpResponse(Template(names).render(Context({"users": users})))


def test_a_stale_result_is_served_and_refreshed_by_a_task(
    alias: str, shelf: Shelf, service: None, rf: RequestFactory
) -> None:
    def page() -> str:
        return view(rf.get("/"), "bob & eve").content.decode()

    with freeze() as clock:
        assert page() == "bob &amp; eve 1"
        assert page() == "bob &amp; eve 1"
        assert len(REQUESTS) == 1, "now all reads come from the cache"
        clock.advance(61)
        assert page() == "bob &amp; eve 1"
        assert len(REQUESTS) == 1, "the reader waits for no service"
        shelf.run_all()
        assert page() == "bob &amp; eve 2"


def test_orm_reads(
    alias: str, shelf: Shelf, rf: RequestFactory, django_assert_num_queries: Any
) -> None:
    User.objects.create(username="bob", is_staff=True)
    User.objects.create(username="eve")
    assert user_detail(rf.get("/"), "bob").content == b"bob"
    assert staff(rf.get("/")).content == b"bob "
    with django_assert_num_queries(0):
        assert user_detail(rf.get("/"), "bob").content == b"bob"
        assert staff(rf.get("/")).content == b"bob "
    User.objects.filter(username="eve").update(is_staff=True)
    with freeze() as clock:
        clock.advance(601)
        assert staff(rf.get("/")).content == b"bob "
        shelf.run_all()
        assert staff(rf.get("/")).content == b"bob eve "
