"""aioquic's TLS methods without a hook, run with private globals: where hybrid groups and ML-DSA come in.

Role: five methods of `aioquic.tls.Context` (1.7.2) and two helpers, re-bound here as functions whose global
names for groups, signature schemes, key schedules and ALPN are replaced; `tls.py` calls them.  Their code
is aioquic's own; the module `aioquic.tls` is never touched, so that stock aioquic works unchanged in the
same process.  It holds no policy and no state.

A hybrid key poses as an elliptic-curve key: `Curve` as the curve, `Share` as the public key, `HybridKey` as
the private key.  That works because aioquic calls `exchange()` before it encodes the server's public key,
so that a KEM fits the code written for Diffie-Hellman.  tests/unit/test_tls_internals.py holds aioquic's
side of this in place, and `rebind` fails at import when a method does not use a name that it should.
"""

from __future__ import annotations

import hmac
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aioquic import tls
from aioquic._buffer import Buffer
from cryptography.hazmat.primitives.asymmetric import ec, mldsa

from shadowmesh.crypto import hybrid
from shadowmesh.errors import BadPacket

ML_DSA_87 = 0x0906
"""Signature scheme mldsa87 (draft-ietf-tls-mldsa). 0x0904 and 0x0905, the smaller ones, are never offered."""


class ConstantTimeBytes(bytes):
    """Bytes that compare in constant time; Python asks the subclass first, on either side of `!=`."""

    __hash__ = bytes.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, bytes) and hmac.compare_digest(bytes(self), bytes(other))

    def __ne__(self, other: object) -> bool:
        return not self == other


class KeySchedule(tls.KeySchedule):
    """Makes the comparisons of Finished messages and PSK binders constant-time."""

    def finished_verify_data(self, secret: bytes) -> bytes:
        return ConstantTimeBytes(super().finished_verify_data(secret))


class Curve:
    """A group in the shape of an elliptic curve: aioquic tells groups apart by the class of the curve."""

    group: hybrid.HybridGroup


CURVES: dict[int, type[Curve]] = {
    code: type(f"Curve{code:04X}", (Curve,), {"group": group}) for code, group in hybrid.GROUPS.items()
}


@dataclass
class Share:
    """A public key share in the shape of an EC public key."""

    curve: Curve
    data: bytes


class HybridKey:
    """One side of a hybrid exchange in the shape of an EC private key, and of its own public key.

    The order of calls tells the role: a client asks for the share first, a server exchanges first.
    """

    def __init__(self, curve: Curve) -> None:
        self.curve = curve
        self.used = False
        self._initiator: hybrid.Initiator | None = None
        self._share = b""

    def public_key(self) -> HybridKey:
        return self

    def share(self) -> bytes:
        if not self._share:
            self._initiator = hybrid.Initiator(self.curve.group)
            self._share = self._initiator.share
        return self._share

    def exchange(self, _algorithm: Any, peer: Share) -> bytes:
        try:
            if self._initiator is not None:
                secret = self._initiator.finish(peer.data)
            else:
                self._share, secret = hybrid.respond(self.curve.group, peer.data)
        except BadPacket as error:
            raise tls.AlertIllegalParameter("bad hybrid key share") from error
        self.used = True
        self._initiator = None
        return secret


def decode_public_key(key_share: tls.KeyShareEntry) -> Share | None:
    curve = CURVES.get(key_share[0])
    return None if curve is None else Share(curve(), key_share[1])


def encode_public_key(key: HybridKey) -> tls.KeyShareEntry:
    return key.curve.group.code, key.share()


def _signature_algorithm_params(scheme: int) -> tuple[Any, ...]:
    return () if scheme == ML_DSA_87 else tls.signature_algorithm_params(scheme)


def _signature_algorithm_key_type(scheme: int) -> type:
    return mldsa.MLDSA87PublicKey if scheme == ML_DSA_87 else tls.signature_algorithm_key_type(scheme)


def _pull_alpn_protocol(buf: Buffer) -> str:
    """Unlike aioquic's, hides no protocol: a name that is not ASCII counts as offered too."""
    return tls.pull_opaque(buf, 1).decode("latin-1")


def _names(code: types.CodeType) -> set[str]:
    """Every global name that a code object and the functions inside it may look up."""
    nested = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*map(_names, nested))


def rebind(function: Callable[..., Any], **replacements: Any) -> Callable[..., Any]:
    """Return the function with private globals; `ImportError` if it does not use a name that is replaced."""
    assert isinstance(function, types.FunctionType)
    if missing := replacements.keys() - _names(function.__code__):
        raise ImportError(f"{function.__qualname__} does not use {sorted(missing)}: this needs aioquic 1.7.2")
    private = {**function.__globals__, **replacements}
    rebound = types.FunctionType(function.__code__, private, function.__name__, function.__defaults__)
    rebound.__kwdefaults__ = function.__kwdefaults__
    return rebound


class _KeyScheduleProxy(tls.KeyScheduleProxy):
    __init__ = rebind(tls.KeyScheduleProxy.__init__, KeySchedule=KeySchedule)


_ec = types.SimpleNamespace(generate_private_key=HybridKey, EllipticCurvePublicKey=Share, ECDH=lambda: None)


def _generate_any(curve: Curve | ec.EllipticCurve) -> HybridKey | ec.EllipticCurvePrivateKey:
    return HybridKey(curve) if isinstance(curve, Curve) else ec.generate_private_key(curve)


def _decode_any_key(key_share: tls.KeyShareEntry) -> Any:
    return decode_public_key(key_share) or tls.decode_public_key(key_share)


def _encode_any_key(key: Any) -> tls.KeyShareEntry:
    return encode_public_key(key) if isinstance(key, HybridKey) else tls.encode_public_key(key)


def _pull_any_hello(buf: Buffer) -> tls.ClientHello:
    """Put hybrid shares first: aioquic takes the first that it knows, and a client may begin with X25519."""
    hello: tls.ClientHello = pull_client_hello(buf)
    if hello.key_share is not None:
        hello.key_share.sort(key=lambda share: share[0] not in CURVES)
    return hello


_any_ec = types.SimpleNamespace(
    generate_private_key=_generate_any,
    EllipticCurvePublicKey=(Share, ec.EllipticCurvePublicKey),
    ECDH=ec.ECDH,
)
pull_client_hello = rebind(tls.pull_client_hello, pull_alpn_protocol=_pull_alpn_protocol)
client_send_hello = rebind(
    tls.Context._client_send_hello,
    ec=_ec,
    GROUP_TO_CURVE=CURVES,
    encode_public_key=encode_public_key,
    KeySchedule=KeySchedule,
    KeyScheduleProxy=_KeyScheduleProxy,
)
client_handle_hello = rebind(tls.Context._client_handle_hello, ec=_ec, decode_public_key=decode_public_key)
server_handle_hello = rebind(
    tls.Context._server_handle_hello,
    ec=_ec,
    GROUP_TO_CURVE=CURVES,
    decode_public_key=decode_public_key,
    encode_public_key=encode_public_key,
    signature_algorithm_params=_signature_algorithm_params,
    pull_client_hello=pull_client_hello,
    KeySchedule=KeySchedule,
)
server_handle_any_hello = rebind(
    tls.Context._server_handle_hello,
    ec=_any_ec,
    GROUP_TO_CURVE={**tls.GROUP_TO_CURVE, **CURVES},
    decode_public_key=_decode_any_key,
    encode_public_key=_encode_any_key,
    pull_client_hello=_pull_any_hello,
    KeySchedule=KeySchedule,
)
"""The same for a policy with classical groups beside hybrid ones; ML-DSA is none of its matters."""
client_handle_finished = rebind(
    tls.Context._client_handle_finished, signature_algorithm_params=_signature_algorithm_params
)
check_certificate_verify_signature = rebind(
    tls.Context._check_certificate_verify_signature,
    signature_algorithm_params=_signature_algorithm_params,
    signature_algorithm_key_type=_signature_algorithm_key_type,
)
