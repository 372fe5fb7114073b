"""``txzmq serve``: services by a process for each port, under a supervisor."""

from __future__ import annotations

import importlib.util
import sys
from typing import Final

import click
from twisted.internet.error import CannotListenError

from txzmq._cli.problems import FAILED, Problem
from txzmq._cli.quantities import seconds

__all__ = ["command"]

_EPILOG: Final = """
SIGTERM and Ctrl-C drain all processes; a second one ends them. SIGUSR2 replaces them one after the
other, without a failed call. SIGHUP has them read the clients' keys again.
"""

#: Seconds of grace at most, while somebody waits for a change to be served.
_DEVELOPS: Final = 1.0


@click.command("serve", epilog=_EPILOG)
@click.argument("services", nargs=-1, required=True, metavar="PACKAGE.MODULE:SERVICE...")
@click.option(
    "--listen",
    multiple=True,
    required=True,
    metavar="ADDRESS",
    help="Where, a process for each port: tcp://127.0.0.1:5000-5003, ipc:///path, or the sockets "
    "that systemd passes: systemd, or systemd:NAME. May be given several times.",
)
@click.option(
    "--publisher",
    multiple=True,
    metavar="ADDRESS",
    help="Where streams are published, with two ports for each process: "
    "tcp://127.0.0.1:6000-6007. At any free port by default.",
)
@click.option(
    "--keys",
    "--key",
    "keys",
    metavar="FILE",
    help="The file with the server's secret CURVE key, NAME.key_secret.",
)
@click.option("--allow-group", is_flag=True, help="Take a file of --keys that its group can read.")
@click.option(
    "--clients", metavar="FOLDER", help="The folder with the clients' public keys, NAME.key."
)
@click.option(
    "--reload-keys",
    default=0.0,
    show_default=True,
    callback=seconds,
    metavar="SECONDS",
    help="Look so often whether the files of --clients have changed, and read them again; 0 for "
    "at SIGHUP only.",
)
@click.option("--insecure", is_flag=True, help="Listen without keys where strangers can connect.")
@click.option(
    "--options",
    metavar="PACKAGE.MODULE:NAME",
    help="A mapping of further arguments of the Server, such as limits and interceptors.",
)
@click.option("--admin", is_flag=True, help="Add the Admin service, which top and peers ask.")
@click.option(
    "--grace",
    default=10.0,
    show_default=True,
    callback=seconds,
    metavar="SECONDS",
    help="For running calls to end, when a process ends.",
)
@click.option(
    "--start-timeout",
    default=60.0,
    show_default=True,
    callback=seconds,
    metavar="SECONDS",
    help="Until a process must be ready.",
)
@click.option(
    "--worker-timeout",
    default=60.0,
    show_default=True,
    callback=seconds,
    metavar="SECONDS",
    help="A process whose reactor stands still for so long is replaced; 0 for never.",
)
@click.option(
    "--log",
    type=click.Choice(("text", "json")),
    default="text",
    show_default=True,
    help="The form of the log, on standard error.",
)
@click.option(
    "--log-level",
    type=click.Choice(("debug", "info", "warn", "error", "critical")),
    default="info",
    show_default=True,
)
@click.option("--access-log", is_flag=True, help="Log a line for each call.")
@click.option(
    "--metrics",
    metavar="HOST:PORT",
    help="Where /metrics, /healthz and /readyz of all processes are served by HTTP; :9090 is "
    "127.0.0.1:9090.",
)
@click.option(
    "--reload", is_flag=True, help="Replace the processes when a file has changed; to develop with."
)
def command(
    services: tuple[str, ...],
    listen: tuple[str, ...],
    publisher: tuple[str, ...],
    keys: str | None,
    allow_group: bool,
    clients: str | None,
    reload_keys: float,
    insecure: bool,
    options: str | None,
    admin: bool,
    grace: float,
    start_timeout: float,
    worker_timeout: float,
    log: str,
    log_level: str,
    access_log: bool,
    metrics: str | None,
    reload: bool,
) -> int:
    """Serve services, by a process for each port."""
    if sys.platform == "win32":
        raise Problem("serve needs a POSIX system: Windows has no signals and no sockets to share")
    if (keys is None) != (clients is None):
        given, missing = ("--keys", "--clients") if clients is None else ("--clients", "--keys")
        raise Problem(
            f"{given} needs {missing}",
            "the server's own key is --keys FILE, and --clients FOLDER says who may connect",
        )
    if reload_keys and clients is None:
        raise Problem("--reload-keys needs --clients", "it is their files that are read again")
    if metrics is not None and importlib.util.find_spec("prometheus_client") is None:
        raise Problem("--metrics needs prometheus_client", "pip install 'txzmq[prometheus]'")
    from txzmq._serve.running import Settings, run
    from txzmq._serve.supervisor import NotStarted
    from txzmq._serve.worker_state import Limits

    settings = Settings(
        services=services,
        listen=listen,
        publisher=publisher,
        options=options or "",
        keys=keys or "",
        allow_group=allow_group,
        clients=clients or "",
        reload_keys=reload_keys,
        insecure=insecure,
        admin=admin,
        limits=Limits(
            grace=min(grace, _DEVELOPS) if reload else grace,
            start=start_timeout,
            silence=worker_timeout,
        ),
        access_log=access_log,
        metrics=metrics or "",
        reload=reload,
        log=log,
        log_level=log_level,
    )
    try:
        run(settings)
    except NotStarted as error:
        if error.traceback:
            sys.stderr.write(error.traceback)
        raise Problem(str(error), status=FAILED) from None
    except CannotListenError as error:
        raise Problem(str(error), status=FAILED) from None
    except ValueError as error:
        raise Problem(str(error)) from None
    return 0
