"""Makes protocol-1.json, the test vectors of protocol version 1, without any code of the product.

Only Python's standard library and the `cryptography` package are used, so that the vectors check the
product instead of repeating it.  Run it from this folder; its output is the same in every run.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import zlib
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA87PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM1024PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305


def stretch(text: str, size: int) -> bytes:
    """Bytes that look random and are the same in every run."""
    return hashlib.shake_128(text.encode()).digest(size)


def expand(secret: bytes, info: bytes, size: int) -> bytes:
    """HKDF-Expand of RFC 5869 with SHA-256."""
    output, block, counter = b"", b"", 1
    while len(output) < size:
        block = hmac.digest(secret, block + info + bytes((counter,)), "sha256")
        output += block
        counter += 1
    return output[:size]


def text_map(entries: list[tuple[str, object]]) -> bytes:
    """A MessagePack map with short string keys."""
    return bytes((0x80 | len(entries),)) + b"".join(pack(key) + pack(value) for key, value in entries)


def pack(value: object) -> bytes:
    """The shortest MessagePack form of a value."""
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        if value < 1 << 16:
            return bytes((value,)) if value < 128 else b"\xcd" + value.to_bytes(2, "big")
        return b"\xce" + value.to_bytes(4, "big") if value < 1 << 32 else b"\xcf" + value.to_bytes(8, "big")
    if isinstance(value, str):
        return bytes((0xA0 | len(value),)) + value.encode()
    if isinstance(value, bytes):
        if len(value) < 256:
            return b"\xc4" + bytes((len(value),)) + value
        return b"\xc5" + len(value).to_bytes(2, "big") + value
    if isinstance(value, list):
        return bytes((0x90 | len(value),)) + b"".join(map(pack, value))
    assert isinstance(value, dict)
    return text_map(list(value.items()))


def node(name: str) -> dict[str, object]:
    """A node with all its keys."""
    ed25519 = Ed25519PrivateKey.from_private_bytes(stretch(f"{name} ed25519", 32))
    mldsa = MLDSA87PrivateKey.from_seed_bytes(stretch(f"{name} mldsa", 32)).public_key().public_bytes_raw()
    public = ed25519.public_key().public_bytes_raw()
    node_id = hashlib.sha256(b"shadowmesh node" + public + mldsa).digest()
    mac = bytearray(hashlib.sha256(b"shadowmesh mac" + node_id).digest()[:6])
    mac[0] = mac[0] & 0xFC | 2
    return {
        "ed25519_seed": stretch(f"{name} ed25519", 32),
        "mldsa_seed": stretch(f"{name} mldsa", 32),
        "ed25519_public": public,
        "node_id": node_id,
        "node_id_text": base64.b32encode(node_id).decode().rstrip("=").lower(),
        "mac": bytes(mac),
        "nonce": stretch(f"{name} nonce", 32),
        "instance": stretch(f"{name} instance", 8),
        "lanes": [stretch(f"{name} lane {lane}", 8) for lane in range(8)],
    }


def packet(material: bytes, lane: int, receiver_id: bytes, number: int, payload: bytes) -> bytes:
    """A frame packet (docs/protocol.md, section 6)."""
    key, iv, header_key = material[:32], material[32:44], material[44:]
    n = lane.to_bytes(4, "big") + number.to_bytes(4, "big")
    nonce = bytes(a ^ b for a, b in zip(iv, bytes(4) + n, strict=True))
    aad = n + b"\x43\0\0" + len(payload).to_bytes(2, "big")
    sealed = ChaCha20Poly1305(key).encrypt(nonce, payload, aad)
    ecb = Cipher(algorithms.AES(header_key), modes.ECB()).encryptor()
    mask = ecb.update(sealed[:16])
    first = 0x43 ^ mask[0] & 0x1F
    protected = bytes(a ^ b for a, b in zip(number.to_bytes(4, "big"), mask[1:5], strict=True))
    return bytes((first,)) + receiver_id + protected + sealed


def header(message_type: int, size: int) -> bytes:
    return bytes((message_type,)) + size.to_bytes(3, "big")


def handshake(alice: dict, bob: dict) -> dict[str, object]:  # type: ignore[type-arg]
    """All four messages of a session between alice (initiator) and bob."""
    secrets = {name: stretch(f"exporter {name}", 32) for name in ("proof", "confirm", "root")}
    ids = alice["node_id"] + bob["node_id"]
    transcript = b""

    def said_by(side: dict) -> dict[str, object]:  # type: ignore[type-arg]
        return {
            "capabilities": [],
            "critical": [],
            "key": side["ed25519_public"],
            "nonce": side["nonce"],
            "instance": side["instance"],
            "lanes": side["lanes"],
            "membership": b"",
        }

    def signed(message_type: int, role: bytes, side: dict, body: bytes) -> bytes:  # type: ignore[type-arg]
        head = header(message_type, len(body) + 64)
        digest = hashlib.sha256(transcript + head + body).digest()
        key = Ed25519PrivateKey.from_private_bytes(side["ed25519_seed"])
        return head + body + key.sign(b"shadowmesh/1 " + role + secrets["proof"] + digest + ids)

    def confirmed(message_type: int, role: bytes, body: bytes) -> bytes:
        head = header(message_type, len(body) + 32)
        digest = hashlib.sha256(transcript + head + body).digest()
        return head + body + hmac.digest(secrets["confirm"], role + digest, "sha256")

    hello = signed(1, b"initiator", alice, text_map([("versions", [1]), ("node", said_by(alice))]))
    transcript += hello
    challenge = signed(2, b"responder", bob, text_map([("version", 1), ("node", said_by(bob))]))
    transcript += challenge
    response = confirmed(3, b"initiator", text_map([]))
    transcript += response
    session = stretch("session", 16)
    seen = [("observed_host", "192.0.2.7"), ("observed_port", 40000)]
    body = text_map([("session", session), *seen, ("supports_direct", False)])
    clocked = bytes((body[0] + 1,)) + body[1:] + pack("clock_ms") + pack(1_800_000_000_123)
    established, of_relay = (confirmed(4, b"responder", one) for one in (body, clocked))
    transcript = hello + challenge
    resumed = confirmed(4, b"responder", body)
    keys = {
        role: expand(secrets["root"], b"shadowmesh/1 frames " + role.encode() + bytes(4), 76)
        for role in ("initiator", "responder")
    }
    return {
        "exporters": secrets,
        "session": session,
        "hello": hello,
        "challenge": challenge,
        "response": response,
        "established": established,
        "established_of_relay": of_relay,
        "keys_epoch_0": keys,
        "established_resumed": resumed,
        "resumption_secret": expand(secrets["root"], b"shadowmesh/1 resume " + ids, 32),
        "keys_initiator_epoch_7": expand(secrets["root"], b"shadowmesh/1 frames initiator\0\0\0\7", 76),
    }


def rekey(alice: dict, bob: dict, session: dict) -> dict[str, object]:  # type: ignore[type-arg]
    """The first rekey of that session, as far as it is the same in every run.

    ML-DSA signatures are randomised, so they are left out; so is encapsulation: the ML-KEM ciphertext is
    made up, and its secret is what FIPS 203 prescribes for such a one (implicit rejection).
    """
    kem_seed, alice_x25519 = stretch("alice rekey mlkem", 64), stretch("alice rekey x25519", 32)
    bob_x25519 = stretch("bob rekey x25519", 32)
    kem = MLKEM1024PrivateKey.from_seed_bytes(kem_seed)
    exchanges = [X25519PrivateKey.from_private_bytes(seed) for seed in (alice_x25519, bob_x25519)]
    ciphertext = stretch("bob rekey ciphertext", 1568)
    shares = [
        kem.public_key().public_bytes_raw() + exchanges[0].public_key().public_bytes_raw(),
        ciphertext + exchanges[1].public_key().public_bytes_raw(),
    ]
    lanes = [[stretch(f"{name} lane {lane} of epoch 1", 8) for lane in range(8)] for name in ("alice", "bob")]
    binding = hashlib.sha256(session["hello"] + session["challenge"] + session["response"]).digest()
    contents, signed, made = b"", [], []
    for message_type, side, role in ((0x49, 0, b"initiator"), (0x4A, 1, b"responder")):
        body = text_map([("epoch", 1), ("share", shares[side]), ("lanes", lanes[side])])
        content = header(message_type, len(body) + 64 + 4627) + body
        contents += content
        made.append(content)
        digest = hashlib.sha256(contents).digest()
        ids = alice["node_id"] + bob["node_id"]
        signed.append(b"shadowmesh/1 rekey " + role + binding + b"\0\0\0\1" + digest + ids)
    secret = kem.decapsulate(ciphertext) + exchanges[0].exchange(exchanges[1].public_key())
    extracted = secret + hashlib.sha256(contents).digest()
    root = hmac.digest(session["exporters"]["root"], extracted, "sha256")
    sign = [Ed25519PrivateKey.from_private_bytes(side["ed25519_seed"]).sign for side in (alice, bob)]
    return {
        "mlkem_seed": kem_seed,
        "x25519_seed_of_alice": alice_x25519,
        "binding": binding,
        "offer_without_proof": made[0],
        "answer_without_proof": made[1],
        "signed_in_offer": signed[0],
        "signed_in_answer": signed[1],
        "ed25519_signature_in_offer": sign[0](signed[0]),
        "ed25519_signature_in_answer": sign[1](signed[1]),
        "secret": secret,
        "root": root,
        "keys_epoch_1": {
            role: expand(root, b"shadowmesh/1 frames " + role.encode() + b"\0\0\0\1", 76)
            for role in ("initiator", "responder")
        },
    }


def packets(material: bytes, lanes: list[bytes]) -> list[dict[str, object]]:
    """Frame packets of several lanes, numbers and payloads."""
    chosen = [
        (0, 0, b"\x04" + stretch("probe", 8)),
        (1, 0, b"\x01" + stretch("frame", 60)),
        (1, 1, b"\x03"),
        (7, 0x7FFFFFFF, b"\x01" + stretch("large frame", 1394)),
    ]
    return [
        {
            "lane": lane,
            "number": number,
            "receiver_id": lanes[lane],
            "payload": payload,
            "packet": packet(material, lane, lanes[lane], number, payload),
        }
        for lane, number, payload in chosen
    ]


def fragments(payload: bytes, frame: int, sizes: list[int]) -> dict[str, object]:
    """The payload in parts of these sizes."""
    made, start = [], 0
    for index, size in enumerate(sizes):
        head = b"\x02" + frame.to_bytes(4, "big") + bytes([index, len(sizes)])
        made.append(head + payload[start : start + size])
        start += size
    return {"payload": payload, "fragments": made}


def document(kind: int, body: bytes, ed25519: Ed25519PrivateKey) -> dict[str, object]:
    """A document without the ML-DSA-87 half of its signature, which is another in every run."""
    head = bytes((kind, 1)) + len(body).to_bytes(2, "big")
    signed = b"shadowmesh document" + head + body
    return {
        "body": body,
        "document_without_mldsa": head + body + ed25519.sign(signed),
        "fingerprint": hashlib.sha256(signed).digest(),
    }


def membership(member: bytes) -> dict[str, object]:
    """A network, a certificate for `member`, a revocation list, and what the member shows."""
    ed25519 = Ed25519PrivateKey.from_private_bytes(stretch("authority ed25519", 32))
    mldsa = MLDSA87PrivateKey.from_seed_bytes(stretch("authority mldsa", 32)).public_key().public_bytes_raw()
    public = ed25519.public_key().public_bytes_raw()
    network_id = hashlib.sha256(b"shadowmesh network" + public + mldsa).digest()
    network: list[tuple[str, object]] = [
        ("name", "home"), ("ed25519", public), ("mldsa", mldsa), ("subnets", ["10.77.0.0/16", "fd77::/64"]),
        ("relays", [{"address": "192.0.2.1:4433", "id": stretch("relay", 32)}]),
        ("issued", 1_800_000_000), ("critical", []),
    ]  # fmt: skip
    certificate: list[tuple[str, object]] = [
        ("network", network_id), ("node", member), ("name", "alice"),
        ("addresses", ["10.77.0.1/16", "fd77::1/64"]), ("routes", ["192.168.5.0/24"]), ("groups", ["admin"]),
        ("rights", ["bridge"]), ("not_before", 1_800_000_000), ("not_after", 1_807_776_000), ("serial", 7),
        ("critical", []),
    ]  # fmt: skip
    revocations: list[tuple[str, object]] = [
        ("network", network_id), ("number", 3), ("issued", 1_800_000_000), ("valid_until", 1_802_592_000),
        ("nodes", [stretch("revoked", 32)]), ("serials", [2, 5]), ("critical", []),
    ]  # fmt: skip
    second = (
        Ed25519PrivateKey.from_private_bytes(stretch("second ed25519", 32)).public_key().public_bytes_raw()
    )
    second_mldsa = (
        MLDSA87PrivateKey.from_seed_bytes(stretch("second mldsa", 32)).public_key().public_bytes_raw()
    )
    rotation: list[tuple[str, object]] = [
        ("network", network_id), ("number", 1), ("old_ed25519", public), ("old_mldsa", mldsa),
        ("new_ed25519", second), ("new_mldsa", second_mldsa), ("issued", 1_800_000_000),
        ("until", 1_807_776_000), ("lists", 3), ("critical", []),
    ]  # fmt: skip
    bodies = {"network": network, "certificate": certificate, "revocations": revocations}
    return {
        "ed25519_seed": stretch("authority ed25519", 32),
        "mldsa_seed": stretch("authority mldsa", 32),
        "network_id": network_id,
        "shown_without_certificate": text_map([("certificate", b""), ("revocations", 3)]),
        "shown_by_delegate_without_certificate": text_map(
            [("certificate", b""), ("revocations", 3), ("renews", 1_800_100_000), ("links", 1)]
        ),
        "rotation": document(5, text_map(rotation), ed25519),
        **{
            name: document(kind, text_map(body), ed25519)
            for kind, (name, body) in enumerate(bodies.items(), start=1)
        },
    }


def delegation(network_id: bytes) -> dict[str, object]:
    """By which a node may sign one certificate, and the bytes of an invitation to take it."""
    authority = Ed25519PrivateKey.from_private_bytes(stretch("authority ed25519", 32))
    ed25519 = Ed25519PrivateKey.from_private_bytes(stretch("inviter ed25519", 32)).public_key()
    mldsa = MLDSA87PrivateKey.from_seed_bytes(stretch("inviter mldsa", 32)).public_key()
    grant = [("name", "bob"), ("addresses", ["10.77.0.2/16"]), ("groups", ["admin"]), ("rights", [])]
    body: list[tuple[str, object]] = [
        ("network", network_id), ("ed25519", ed25519.public_bytes_raw()), ("mldsa", mldsa.public_bytes_raw()),
        ("scope", "join"), ("not_before", 1_800_000_000), ("not_after", 1_807_776_000), ("serial", 8),
        ("grants", [{**dict(grant), "serial": 9}]), ("critical", []),
    ]  # fmt: skip
    return document(4, text_map(body), authority)


def invitation(network_id: bytes, inviter: bytes) -> dict[str, object]:
    """A token, what comes from its secret, and both proofs for a session."""
    secret, relay, address = stretch("invitation", 32), stretch("relay", 32), b"192.0.2.1:4433"
    binding = stretch("binding", 32)
    body = (2 + 128 + len(address) + 4).to_bytes(2, "big") + network_id + inviter + relay + secret + address
    token = base64.b32encode(body + zlib.crc32(body).to_bytes(4, "big")).decode().rstrip("=").lower()
    key = expand(secret, b"shadowmesh/1 invitation key", 32)
    return {
        "inviter": inviter,
        "secret": secret,
        "relay": relay,
        "token": f"smesh1{token}",
        "id": expand(secret, b"shadowmesh/1 invitation id", 32),
        "key": key,
        "binding": binding,
        "proof_of_joiner": hmac.digest(key, b"shadowmesh/1 join joiner" + binding, "sha256"),
        "proof_of_inviter": hmac.digest(key, b"shadowmesh/1 join inviter" + binding, "sha256"),
    }


def main() -> None:
    """Write protocol-1.json beside this file."""
    alice, bob = node("alice"), node("bob")
    session = handshake(alice, bob)
    network = membership(alice["node_id"])  # type: ignore[arg-type]
    network_id: bytes = network["network_id"]  # type: ignore[assignment]
    material = session["keys_epoch_0"]["initiator"]  # type: ignore[index]
    vectors = {
        "description": "ShadowMesh protocol 1; bytes in hexadecimal; alice is the initiator",
        "alice": alice,
        "bob": bob,
        "handshake": session,
        "rekey": rekey(alice, bob, session),
        "packets_of_alice": packets(material, bob["lanes"]),  # type: ignore[arg-type]
        "membership": network,
        "delegation": delegation(network_id),
        "invitation": invitation(network_id, alice["node_id"]),  # type: ignore[arg-type]
        "fragments": fragments(b"\x01" + stretch("fragmented frame", 100), 0x01020304, [34, 34, 33]),
        "channel": {
            "id": stretch("channel", 8),
            "inner": b"\xc3" + stretch("inner", 20),
            "datagram": b"\x43" + stretch("channel", 8) + b"\xc3" + stretch("inner", 20),
        },
    }
    text = json.dumps(vectors, indent=1, default=lambda value: value.hex())
    Path(__file__).with_name("protocol-1.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
