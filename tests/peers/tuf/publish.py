"""Publishes a repository with python-tuf's metadata API.

    publish.py DOCUMENTS OUT plain     a first version: plain names, no digests in the metadata
    publish.py DOCUMENTS OUT rotate    a second one: roots 2 and 3 with new keys for every role,
                                       consistent snapshots, lengths and digests

Prints the path of the first root.
"""

import datetime
import pathlib
import sys

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

documents, out, step = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
metadata = out / "metadata"
expires = (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=3)).replace(microsecond=0)
ROLES = ["root", "targets", "snapshot", "timestamp"]


def new_root(version, signers, consistent):
    root = Root(version=version, expires=expires, consistent_snapshot=consistent)
    for role, signer in signers.items():
        root.add_key(signer.public_key, role)
    return root


def save(content, name, *signers):
    file = Metadata(content)
    for signer in signers:
        file.sign(signer, append=True)
    data = file.to_bytes()
    (metadata / name).parent.mkdir(parents=True, exist_ok=True)
    (metadata / name).write_bytes(data)
    return data


def meta(version, data, digests):
    return MetaFile.from_data(version, data, ["sha256"]) if digests else MetaFile(version)


def save_all(version, signers, consistent):
    targets = Targets(version=version, expires=expires)
    (out / "targets").mkdir(parents=True, exist_ok=True)
    for path in sorted(documents.iterdir()):
        target = TargetFile.from_file(path.name, str(path), ["sha256"])
        targets.targets[path.name] = target
        prefix = target.hashes["sha256"] + "." if consistent else ""
        (out / "targets" / f"{prefix}{path.name}").write_bytes(path.read_bytes())
    prefix = f"{version}." if consistent else ""
    data = save(targets, f"{prefix}targets.json", signers["targets"])
    snapshot = Snapshot(version=version, expires=expires, meta={"targets.json": meta(version, data, consistent)})
    data = save(snapshot, f"{prefix}snapshot.json", signers["snapshot"])
    timestamp = Timestamp(version=version, expires=expires, snapshot_meta=meta(version, data, consistent))
    save(timestamp, "timestamp.json", signers["timestamp"])


def key_file():
    return out / "root.key"


first = {role: CryptoSigner.generate_ed25519() for role in ROLES}
if step == "plain":
    save(new_root(1, first, False), "1.root.json", first["root"])
    save_all(1, first, False)
    key_file().write_bytes(first["root"].private_bytes)
else:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    before = CryptoSigner(load_pem_private_key(key_file().read_bytes(), None))
    second = {role: CryptoSigner.generate_ed25519() for role in ROLES}
    third = {role: CryptoSigner.generate_ed25519() for role in ROLES}
    save(new_root(2, second, True), "2.root.json", before, second["root"])
    save(new_root(3, third, True), "3.root.json", second["root"], third["root"])
    save_all(2, third, True)
print(metadata / "1.root.json")
