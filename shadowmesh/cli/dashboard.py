"""`shadowmesh-client dashboard`: a web page of the running client, for this machine's own browsers."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import click

from shadowmesh.cli.options import ask, config_option, socket_option, socket_path, start_advice
from shadowmesh.cli.replies import DashboardReply
from shadowmesh.command import ExitCode, examples, json_option
from shadowmesh.errors import DeviceError
from shadowmesh.replies import print_reply
from shadowmesh.units import Address
from shadowmesh.values import parse_socket_path

SSH_PORT = 8484
"""In the advice for a Unix socket; any port does."""


class _Where(click.ParamType[Path | ipaddress.IPv4Address | ipaddress.IPv6Address]):
    """An address of this machine only, or an absolute path."""

    name = "where"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path | ipaddress.IPv4Address | ipaddress.IPv6Address:
        text = str(value)
        if text.startswith("/"):
            try:
                return parse_socket_path(text)
            except ValueError as error:
                self.fail(str(error), param, ctx)
        try:
            address = ipaddress.ip_address(text.strip("[]"))
        except ValueError:
            self.fail(f"{text!r} is no address (127.0.0.1, ::1) and no absolute path", param, ctx)
        if not address.is_loopback:
            self.fail(
                f"others could reach {address}, and nothing there would be encrypted; leave the dashboard on "
                "127.0.0.1, and reach it from elsewhere through ssh -L (docs/dashboard.md)",
                param,
                ctx,
            )
        return address


@click.command(
    epilog=examples(
        "shadowmesh-client dashboard                       prints the address to open",
        "shadowmesh-client dashboard --open                opens it in a browser as well",
        "shadowmesh-client dashboard --port 8484           for ssh -L 8484:127.0.0.1:8484 HOST",
        "shadowmesh-client dashboard --listen /run/smesh-dashboard.sock",
    )
)
@config_option()
@socket_option
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="TCP port (default: any free one).")
@click.option(
    "--listen",
    type=_Where(),
    default="127.0.0.1",
    metavar="WHERE",
    help="Loopback address (default 127.0.0.1), or absolute path of a Unix socket.",
)
@click.option("--open", "open_it", is_flag=True, help="Open the page in a browser.")
@json_option
def dashboard(
    config: Path | None,
    socket: Path | None,
    port: int,
    listen: Path | ipaddress.IPv4Address | ipaddress.IPv6Address,
    open_it: bool,
    as_json: bool,
) -> int:
    """Serve a web page of the running client, live.

    Peers and paths, throughput, round trips, drops, relays, membership, firewall and log. The page can be
    reached from this machine only, and asks for the token that is in the address printed. It changes
    nothing. Ctrl+C ends it.
    """
    if isinstance(listen, Path) and (open_it or port):
        raise click.UsageError("no browser opens a Unix socket: --open and --port are for TCP")
    path = socket_path(config, socket)
    ask(path, lambda client: client.status_json(), start_advice(socket))
    import asyncio
    import webbrowser

    from shadowmesh.dashboard.server import run
    from shadowmesh.web.server import SocketInUse

    where = listen if isinstance(listen, Path) else Address(str(listen), port)
    token = secrets.token_urlsafe(32)
    with contextlib.ExitStack() as stack:

        def ready(found: Address | Path) -> None:
            announce(found, token, as_json)
            if open_it and isinstance(found, Address):
                webbrowser.open(stack.enter_context(forwarding_file(_url(found, token))).as_uri())

        try:
            asyncio.run(run(path, where, token, ready))
        except (OSError, SocketInUse) as error:
            why = error.strerror if isinstance(error, OSError) else None
            raise DeviceError(
                f"can't serve the dashboard on {where}: {why or error}", "device.socket"
            ) from error
    return ExitCode.OK


def announce(where: Address | Path, token: str, as_json: bool) -> None:
    """The address, with what opens it. The token stands behind #, which browsers send to nobody."""
    here = where if isinstance(where, Address) else Address("localhost", SSH_PORT)
    url = _url(here, token)
    if as_json:
        print_reply(DashboardReply(url=url, listen=str(where)))
    elif isinstance(where, Path):
        click.echo(f"the dashboard answers on {where}; on your machine:")
        click.echo(f"  ssh -L {SSH_PORT}:{where} {os.uname().nodename}")
        click.echo(f"and open {url} (Ctrl+C here ends it)")
    else:
        click.echo(f"{url}\nopen it in a browser of this machine; Ctrl+C ends the dashboard")


def _url(where: Address, token: str) -> str:
    return f"http://{where}/#{token}"


@contextlib.contextmanager
def forwarding_file(url: str) -> Iterator[Path]:
    """A file of mode 0600 that leads to `url`: every user of this machine can read a browser's arguments."""
    import tempfile

    with tempfile.NamedTemporaryFile("w", prefix="shadowmesh-", suffix=".html") as file:
        file.write(f'<!doctype html><meta http-equiv="refresh" content="0; url={url}">')
        file.flush()
        yield Path(file.name)
