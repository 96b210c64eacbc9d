"""What stands between a client and the WebSocket of a relay: UDP blocked, proxies, certificates.

Imports nothing of the product.
"""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from shadowmesh.testing.natlab import nft

if TYPE_CHECKING:
    from shadowmesh.testing.lab import Host
    from shadowmesh.testing.mesh import ClientNode, RelayNode
    from shadowmesh.testing.process import Process

HTTPS_PORT = 443
HTTP_PORT = 8080
PROXY_PORT = 3128
BLOCK_TABLE = "noudp"


def block_udp(host: Host) -> None:
    """Drop every UDP datagram that leaves or enters this host, but on its own loopback."""
    nft(
        host,
        f"table inet {BLOCK_TABLE} {{\n"
        "  chain out { type filter hook output priority 0; oifname != lo meta l4proto udp drop; }\n"
        "  chain in { type filter hook input priority 0; iifname != lo meta l4proto udp drop; }\n"
        "}",
    )


def unblock_udp(host: Host) -> None:
    """Undo `block_udp`."""
    nft(host, f"table inet {BLOCK_TABLE}\ndelete table inet {BLOCK_TABLE}")


def block_tcp_to(host: Host, address: str) -> None:
    """Drop TCP from this host to one address: the way to it leads through a proxy only."""
    family = "ip6" if ":" in address else "ip"
    rule = f"{family} daddr {address} meta l4proto tcp drop"
    nft(host, f"table inet notcp {{\n  chain out {{ type filter hook output priority 0; {rule}; }}\n}}")


def write_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed ECDSA certificate and its key, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    today = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - dt.timedelta(days=1))
        .not_valid_after(today + dt.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(exist_ok=True)
    paths = folder / f"{name}.crt", folder / f"{name}.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


def serve_tcp(relay: RelayNode, **more: object) -> None:
    """Let a configured relay that is not started yet listen on TCP port 443 with a certificate of its own."""
    certificate, key = write_certificate(relay.directory, relay.name)
    files = {"certificate": str(certificate), "key": str(key)}
    relay.config["websocket"] = {"listen": f"[::]:{HTTPS_PORT}", **files, **more}


def use_tcp(client: ClientNode, host: Host, **more: object) -> None:
    """Let a configured client reach its relays over TCP at `host`, be that a relay or a reverse proxy."""
    address = f"[{host.address}]" if ":" in host.address else host.address
    for relay in client.config["relays"]:
        relay.update({"tcp": f"{address}:{HTTPS_PORT}", **more})


def connect_proxy(host: Host, folder: Path, credentials: tuple[str, str] | None = None) -> Process:
    """A tinyproxy that lets everybody CONNECT to port 443 through it."""
    lines = [f"Port {PROXY_PORT}", "Timeout 600", "MaxClients 50", f"ConnectPort {HTTPS_PORT}"]
    lines += [f"BasicAuth {' '.join(credentials)}"] if credentials else []
    path = folder / "tinyproxy.conf"
    path.write_text("\n".join(lines) + "\n")
    process = host.spawn(["tinyproxy", "-d", "-c", str(path)], "tinyproxy.log")
    _wait_listening(process, PROXY_PORT)
    return process


def reverse_proxy(host: Host, folder: Path, backend: str) -> Process:
    """An nginx with TLS that passes WebSockets on to `backend` (ADDRESS:PORT) in plain HTTP."""
    certificate, key = write_certificate(folder, "front")
    path = folder / "nginx.conf"
    path.write_text(
        _NGINX.format(folder=folder, certificate=certificate, key=key, port=HTTPS_PORT, backend=backend)
    )
    command = ["nginx", "-c", str(path), "-p", str(folder), "-e", str(folder / "nginx-error.log")]
    process = host.spawn(command, "nginx.log")
    _wait_listening(process, HTTPS_PORT)
    return process


def small_reverse_proxy(host: Host, folder: Path, backend: str) -> Process:
    """The same without nginx: TLS, one header more, and bytes (`shadowmesh.testing.front`)."""
    certificate, key = write_certificate(folder, "front")
    command = [sys.executable, "-m", "shadowmesh.testing.front", str(HTTPS_PORT), backend]
    process = host.spawn([*command, str(certificate), str(key)], "front.log")
    _wait_listening(process, HTTPS_PORT)
    return process


def _wait_listening(process: Process, port: int) -> None:
    process.wait_for(lambda: _listens(process.pid, port), 10.0, f"TCP port {port}")


def _listens(pid: int, port: int) -> bool:
    """Whether the network namespace of a process has a listening TCP socket, by /proc/PID/net/tcp{,6}."""
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue
        # proc_net_tcp(5): second column is local address:port in hexadecimal, fourth 0A for LISTEN.
        fields = [line.split() for line in lines]
        if any(int(one[1].rpartition(":")[2], 16) == port and one[3] == "0A" for one in fields):
            return True
    return False


_NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen [::]:{port} ssl ipv6only=off;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.3;
    location /shadowmesh {{
      proxy_pass http://{backend};
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection upgrade;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_read_timeout 300s;
    }}
  }}
}}
"""
