"""OpenVPN 2.6 in TAP mode between two hosts, without its kernel module (DCO)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.systems.base import FAR_ADDRESS, INNER_MTU, NEAR_ADDRESS, PORT, System, address_interface

if TYPE_CHECKING:
    from shadowmesh.testing.lab import Host, Lab

INTERFACE = "ovpn0"
CIPHER = "CHACHA20-POLY1305"


class Openvpn(System):
    """TLS with self-signed certificates that each end knows by fingerprint."""

    name = "openvpn"
    cipher = CIPHER
    programs = ("openvpn", "openssl")
    package = "openvpn, openssl"

    def start(self, lab: Lab, near: Host, far: Host) -> str:
        """Certificates by openssl, then the TLS server (`far`) and client."""
        prints = {host.name: self._certificate(lab, host) for host in (near, far)}
        for host, other, address in ((far, near, FAR_ADDRESS), (near, far, NEAR_ADDRESS)):
            directory = self.directory(lab, host)
            command = ["openvpn", "--dev", INTERFACE, "--dev-type", "tap", "--disable-dco", "--proto", "udp"]
            command += ["--remote", other.address, str(PORT), "--local", host.address, "--lport", str(PORT)]
            command += ["--tls-server", "--dh", "none"] if host is far else ["--tls-client"]
            command += ["--cert", str(directory / "cert.pem"), "--key", str(directory / "key.pem")]
            command += ["--peer-fingerprint", prints[other.name], "--data-ciphers", CIPHER]
            command += ["--tun-mtu", str(INNER_MTU), "--mssfix", "0", "--verb", "1"]
            self.spawn(host, command)
            address_interface(host, INTERFACE, address)
        return FAR_ADDRESS

    def _certificate(self, lab: Lab, host: Host) -> str:
        """Make key and certificate; returns the SHA-256 fingerprint as `--peer-fingerprint` wants it."""
        directory = self.directory(lab, host)
        key, certificate = str(directory / "key.pem"), str(directory / "cert.pem")
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        command += ["-nodes", "-days", "2", "-subj", f"/CN={host.name}", "-keyout", key, "-out", certificate]
        host.run(command)
        shown = host.run(["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", certificate])
        return shown.stdout.strip().partition("=")[2]
