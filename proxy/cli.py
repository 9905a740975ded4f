"""The command line: flags, exit codes, and output for people.

Each command imports what it runs when it is called, so that `check` and `schema` start no event loop and load
no server. Standard output carries what was asked for, standard error what went wrong. Exit codes:

0    done 1    it could not be done: an address is taken, the admin API does not answer, … 2    the
configuration has faults, or the command line is wrong 130  interrupted 141  the reader of the output went
away
"""

import io
import json
import os
import signal
import sys
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proxy import __version__
from proxy.clock import SystemClock
from proxy.errors import ConfigError, ProxyError
from proxy.scoreboard import MAX_WORKERS

if TYPE_CHECKING:
    from proxy.config.faults import Fault
    from proxy.config.schema import Config

EXIT_FAILED = 1
EXIT_FAULTS = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

app = typer.Typer(
    name="homeport",
    help="Homeport: a sidecar reverse proxy and load balancer for data-processing containers.",
    epilog="Exit codes: 0 done, 1 could not be done, 2 faults in the configuration or on the command line.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigFile = Annotated[Path, typer.Argument(metavar="FILE", help="The configuration, a YAML file.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        _print(f"homeport {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    # The image blocks them, because PID 1 loses a signal that comes before its handler. The daemon takes them on over
    # its exec; other commands need no such care.
    if context.invoked_subcommand != "run":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)


@app.command()
def run(
    config: Annotated[
        Path, typer.Option("--config", "-c", metavar="FILE", help="The configuration, a YAML file.")
    ],
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MAX_WORKERS,
            metavar="N",
            help="Data-plane processes, instead of `workers` in the file.",
        ),
    ] = None,
) -> None:
    """Run the proxy in the foreground.

    SIGTERM and SIGINT drain and stop (a second one stops at once), SIGHUP reloads the file, SIGUSR1
    reopens the access log, SIGUSR2 replaces the daemon by the program that is installed now, without losing
    a request. Exits with 0 after a drain and with 2 when the file has faults, which are printed first.
    """
    # From here on it is for the parent to end in order.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    from proxy.parent import become_parent

    become_parent(str(config), workers)


@app.command()
def check(
    file: ConfigFile,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")] = False,
) -> None:
    """Check a configuration and print every fault in it.

    A fault is one line, FILE:LINE:COL: path.in.config: what is wrong, got VALUE, expected …. Environment
    variables and files that the configuration refers to must be there. Exits with 0, or with 2 when there
    are faults. What can be meant, and hardly is, is told of a file without faults, on standard error.
    """
    from proxy.config.faults import InvalidConfig, printable
    from proxy.config.load import find_doubts, load_file

    faults: tuple[Fault, ...] = ()
    doubts: list[Fault] = []
    counts: dict[str, int] = {}
    try:
        counts = _counts(load_file(file))
        doubts = find_doubts(file)
    except InvalidConfig as error:
        faults = error.faults
    if as_json:
        # The standard library's writer: it escapes what is no UTF-8 in a file's name, which orjson refuses.
        report = {
            "file": str(file),
            "ok": not faults,
            "faults": [asdict(fault) for fault in faults],
            "doubts": [asdict(doubt) for doubt in doubts],
            **counts,
        }
        _print(json.dumps(report))
    elif faults:
        _print("\n".join(map(str, faults)))
    else:
        summary = ", ".join(f"{number} {_plural(name, number)}" for name, number in counts.items())
        _print(printable(f"{file}: ok: {summary}"))
        for doubt in doubts:
            typer.echo(str(doubt), err=True)
    raise typer.Exit(EXIT_FAULTS if faults else 0)


def _counts(config: "Config") -> dict[str, int]:
    return {
        "listeners": len(config.listeners),
        "clusters": len(config.clusters),
        "endpoints": sum(len(cluster.endpoints) for cluster in config.clusters),
        "routes": len(config.routes),
    }


def _plural(name: str, number: int) -> str:
    return name.removesuffix("s") if number == 1 else name


@app.command()
def schema() -> None:
    """Print the JSON Schema of the configuration file, with the meaning and default of every key."""
    from proxy.config.schema import config_json_schema

    _print(json.dumps(config_json_schema(), indent=2, ensure_ascii=False))


AdminUrl = Annotated[
    str, typer.Option("--admin", metavar="URL", envvar="HOMEPORT_ADMIN", help="Where the admin API is.")
]
AdminToken = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="HOMEPORT_ADMIN_TOKEN",
        show_envvar=True,
        help="The admin API's token. Others can see it in the process list; prefer the variable.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the API's answer as it is.")]
DEFAULT_ADMIN = "http://127.0.0.1:9901"


@app.command()
def status(admin: AdminUrl = DEFAULT_ADMIN, as_json: AsJson = False, token: AdminToken = None) -> None:
    """Show what a running proxy does: listeners, clusters, endpoints, connections, requests."""
    from proxy.admin.client import show_status

    raise typer.Exit(show_status(admin, token, as_json))


@app.command()
def explain(
    cluster: Annotated[str, typer.Option("--cluster", metavar="C", help="The cluster's name.")],
    data_key: Annotated[
        list[str] | None,
        typer.Option("--data-key", metavar="K", help="Data that the request needs; may be given again."),
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", metavar="SIZE", help="Of all its data, as 10MiB; else as learned.")
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(
            "--tag", metavar="TAG", help="Wished for, or required, as the route says; again for more."
        ),
    ] = None,
    processing_type: Annotated[
        str, typer.Option("--type", metavar="TYPE", help="The request's processing type.")
    ] = "",
    route: Annotated[
        str,
        typer.Option(
            "--route", metavar="R", help="Whose requests; else the first to the cluster that knows of data."
        ),
    ] = "",
    admin: AdminUrl = DEFAULT_ADMIN,
    as_json: AsJson = False,
    token: AdminToken = None,
) -> None:
    """Say which endpoint of a cluster a request would go to now, and why: every endpoint with what the request would
    meet there, in seconds. Nothing is sent, and nothing changes."""
    from proxy.admin.explain_client import ask_explain

    asked = [("data_key", key) for key in data_key or ()] + [("tag", each) for each in tag or ()]
    more = (("size", size), ("type", processing_type), ("route", route))
    asked += [(name, value) for name, value in more if value]
    raise typer.Exit(ask_explain(admin, token, as_json, [("cluster", cluster), *asked]))


@app.command()
def reload(admin: AdminUrl = DEFAULT_ADMIN, as_json: AsJson = False, token: AdminToken = None) -> None:
    """Have a running proxy read its configuration again, and say what changed.

    Exits with 0 when the file's configuration is served, and with 2 when the file has faults: they are
    printed, and the proxy goes on with what it had.
    """
    from proxy.admin.client import ask_reload

    raise typer.Exit(ask_reload(admin, token, as_json))


Timeout = Annotated[
    float, typer.Option("--timeout", min=0.1, metavar="S", help="Seconds that --wait waits at most.")
]
IsListener = Annotated[bool, typer.Option("--listener", help="NAME is that of a listener.")]
DrainName = Annotated[
    str, typer.Argument(metavar="NAME", help="CLUSTER/ADDRESS, CLUSTER/NAME, or an address of one cluster.")
]


@app.command()
def drain(
    name: DrainName,
    listener: IsListener = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Return when nothing is in flight, or no connection open, there.")
    ] = False,
    timeout: Timeout = 300.0,
    admin: AdminUrl = DEFAULT_ADMIN,
    as_json: AsJson = False,
    token: AdminToken = None,
) -> None:
    """Send an endpoint nothing new, or close a listener to new connections; what is in progress finishes.

    It stays so until `undrain`, over reloads, upgrades and the death of any process but the parent; a proxy that is
    stopped and started again has forgotten it. Exits with 0 when it is drained (and, with --wait, nothing
    is in flight there, or every connection of the listener is closed), 1 when that cannot be done, or there is nothing
    of that name, and 3 when --timeout passes first: it is drained all the same.
    """
    from proxy.admin.drain_client import ask_drain, wait_idle

    code, ids = ask_drain(admin, token, as_json, name, is_listener=listener, is_drained=True)
    if not code and wait:
        code = wait_idle(admin, token, ids, is_listener=listener, timeout_s=timeout, clock=SystemClock())
    raise typer.Exit(code)


@app.command()
def undrain(
    name: DrainName,
    listener: IsListener = False,
    admin: AdminUrl = DEFAULT_ADMIN,
    as_json: AsJson = False,
    token: AdminToken = None,
) -> None:
    """End a drain: requests go to the endpoint again, or connections to the listener.

    Exits with 0, or with 1 when that cannot be done or there is nothing of that name.
    """
    from proxy.admin.drain_client import ask_drain

    code, _ = ask_drain(admin, token, as_json, name, is_listener=listener, is_drained=False)
    raise typer.Exit(code)


@app.command()
def scale(
    cluster: Annotated[str, typer.Argument(metavar="CLUSTER", help="The cluster's name.")],
    instances: Annotated[
        int | None, typer.Argument(metavar="[N]", min=0, help="Instances there should be.")
    ] = None,
    auto: Annotated[bool, typer.Option("--auto", help="Let the load decide again.")] = False,
    admin: AdminUrl = DEFAULT_ADMIN,
    as_json: AsJson = False,
    token: AdminToken = None,
) -> None:
    """Set how many instances of a cluster there should be, or let its load decide again.

    Within min_instances, max_instances and the host's budget. It stays so until --auto, over reloads and the death of
    any process but the parent. Returns at once: instances start and drain in their own time, see `status`. Exits with
    0, or with 1 when there is no such cluster, it has no scaler, or the daemon does not answer.
    """
    if auto is (instances is not None):
        raise typer.BadParameter("give either a number of instances or --auto", param_hint="N")
    from proxy.admin.scale_client import ask_scale

    raise typer.Exit(ask_scale(admin, token, as_json, cluster, instances))


class DemoDriver(Enum):
    """What instances of the demo are."""

    PROCESS = "process"
    DOCKER = "docker"


@app.command()
def deploy(
    cluster: Annotated[str, typer.Argument(metavar="CLUSTER", help="The cluster's name.")],
    retry: Annotated[bool, typer.Option("--retry", help="Try one again that was called off.")] = False,
    admin: AdminUrl = DEFAULT_ADMIN,
    as_json: AsJson = False,
    token: AdminToken = None,
) -> None:
    """Show how instances of a changed `container` or `process` take the place of the old ones, until that is over.

    It begins by itself when the configuration changes. Exits with 0 when all instances are of the version that there
    should be, and with 1 when it was called off, there is no such cluster, or the daemon does not answer. Ctrl-C ends
    the show, not the deployment.
    """
    from proxy.admin.deploy_client import watch_deploy

    try:
        code = watch_deploy(admin, token, as_json, cluster, is_retried=retry, clock=SystemClock())
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    raise typer.Exit(code)


@app.command()
def demo(
    duration: Annotated[
        float, typer.Option(min=1.0, max=3600.0, metavar="S", help="Seconds of load, at least.")
    ] = 24.0,
    driver: Annotated[
        DemoDriver, typer.Option(help="What sample services run as: local processes, or containers.")
    ] = DemoDriver.PROCESS,
    image: Annotated[
        str, typer.Option(metavar="NAME", help="Image with Homeport in it, for --driver docker.")
    ] = "homeport",
) -> None:
    """Run the proxy with sample data services that it starts and heals, load it, and sum up what happened.

    A calm load, a burst that more instances answer, one of them killed and replaced, calm again. Needs no Docker unless
    told to use it. Exits with 0, or with 1 when a request failed or instances were not added, replaced and retired.
    """
    from proxy.demo import run_demo

    raise typer.Exit(run_demo(duration, driver.value, image))


def main() -> None:
    """The `homeport` command. Ends the process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without Unicode must not end a command
    try:
        app(prog_name="homeport")
    except ConfigError as error:
        sys.exit(_complain(str(error), EXIT_FAULTS))
    except (ProxyError, OSError) as error:
        sys.exit(_complain(f"homeport: {error}", EXIT_FAILED))


def _complain(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code


def _print(text: str) -> None:
    """Print to standard output. A reader that has gone ends the command quietly, as it would any other."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # What is still buffered would fail again at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(EXIT_BROKEN_PIPE) from None
