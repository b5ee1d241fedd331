"""Writes the vectors of this directory from docs/formats/batch.md alone: no code of mcpshim runs.

    python3 generate.py

Needs the package `cryptography`. The body's Zstandard frame holds raw blocks, so that no
compressor's choices are in the vector.
"""

import hashlib
import json
import pathlib
import struct
from base64 import b64encode

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

here = pathlib.Path(__file__).parent
frames = (here / "../record/v1.stream").read_bytes()
last_hash = bytes.fromhex((here / "../record/v1.last-hash").read_text().strip())


def last_number(frames):
    """The last record's number, by the lengths in the frames' heads (docs/formats/record.md)."""
    at = number = 0
    while at < len(frames):
        (length,) = struct.unpack_from("<I", frames, at + 8)
        (number,) = struct.unpack_from("<Q", frames, at + 16)
        at += 56 + length
    return number


def zstd(content):
    """RFC 8878: single segment, content size in four bytes, raw blocks."""
    out = struct.pack("<IBI", 0xFD2FB528, 0xA0, len(content))
    step = 100_000
    for at in range(0, len(content), step):
        block = content[at:at + step]
        last = at + step >= len(content)
        out += struct.pack("<I", len(block) << 3 | last)[:3] + block
    return out


def lengthed(part):
    return struct.pack(">I", len(part)) + part


seed, agent_seed = bytes([7]) * 32, bytes([8]) * 32
key, agent = (Ed25519PrivateKey.from_private_bytes(s) for s in (seed, agent_seed))
public, agent_public = (k.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw) for k in (key, agent))
org, stream = b"example.org", bytes(range(16))
first, last, held, sent = 1, last_number(frames), 3, 1_795_238_400_000_000

body = zstd(frames)
header = b"MCB1" + struct.pack(">BBH", 1, 0, len(org)) + stream
header += struct.pack(">QQ", first, last) + bytes(32) + last_hash + hashlib.sha256(body).digest()
header += struct.pack(">IIQQ", len(body), len(frames), held, sent) + public + org
batch = header + key.sign(b"mcpshim/batch/1\0" + header) + body
(here / "v1.batch").write_bytes(batch)

challenge = bytes(range(40))
statement = b"mcpshim/enrol/1\0" + b"".join(map(lengthed, (org, public, b"laptop-1", challenge)))
agent_statement = b"mcpshim/enrol-agent/1\0" + lengthed(b"ci") + statement
vector = {
    "seed": seed.hex(),
    "installation": hashlib.sha256(public).hexdigest(),
    "org": org.decode(),
    "stream": stream.hex(),
    "first_seq": first,
    "last_seq": last,
    "last_hash": last_hash.hex(),
    "remaining": held,
    "sent_us": sent,
    "enrolment": {
        "machine_id": "laptop-1",
        "challenge": b64encode(challenge).decode(),
        "agent": "ci",
        "agent_seed": agent_seed.hex(),
        "agent_public": b64encode(agent_public).decode(),
        "signature": b64encode(key.sign(statement)).decode(),
        "agent_signature": b64encode(agent.sign(agent_statement)).decode(),
    },
}
(here / "v1.json").write_text(json.dumps(vector, indent=2) + "\n")
