"""Writes the zoo of registries beside this file. Run it only to add or change a case:

    target/peers/python/bin/python tests/data/registry/generate.py

Keys come from fixed seeds and times are fixed, so the same program writes the same bytes. Keys,
key ids, canonical JSON and signatures are python-tuf's (securesystemslib), not ours: the case
`good` is also the proof that the two agree.

A case is a directory of files laid over `good`: what it does not hold is taken from there.
`case.txt` says what the machine did before and what it must say (see README.md).
"""

import copy
import hashlib
import json
import pathlib
import shutil

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner

HERE = pathlib.Path(__file__).parent
EXPIRES = "2027-01-01T00:00:00Z"  # the tests' clock stands at 2026-12-01
OVER = "2026-11-30T00:00:00Z"
SPEC = "1.0.34"


class Key:
    def __init__(self, name):
        seed = hashlib.sha256(f"mcpshim zoo {name}".encode()).digest()
        self.signer = CryptoSigner(Ed25519PrivateKey.from_private_bytes(seed))
        self.id = self.signer.public_key.keyid
        self.object = self.signer.public_key.to_dict()

    def sign(self, signed, keyid=None):
        signature = self.signer.sign(encode_canonical(signed).encode())
        return {"keyid": keyid or self.id, "sig": signature.signature}


ROOT1, ROOT2, TARGETS1, TARGETS2, TARGETS3 = map(Key, ["root1", "root2", "targets1", "targets2", "targets3"])
SNAPSHOT, TIMESTAMP, TIMESTAMP2, STRANGER = map(Key, ["snapshot", "timestamp", "timestamp2", "stranger"])


def root(version=1, expires=EXPIRES, timestamp=TIMESTAMP, **more):
    keys = [ROOT1, ROOT2, TARGETS1, TARGETS2, TARGETS3, SNAPSHOT, timestamp]
    role = lambda threshold, *keys: {"keyids": [k.id for k in keys], "threshold": threshold}
    return {
        "_type": "root",
        "spec_version": SPEC,
        "version": version,
        "expires": expires,
        "consistent_snapshot": True,
        "keys": {k.id: k.object for k in keys},
        "roles": {
            "root": role(2, ROOT1, ROOT2),
            "targets": role(2, TARGETS1, TARGETS2, TARGETS3),
            "snapshot": role(1, SNAPSHOT),
            "timestamp": role(1, timestamp),
        },
        **more,
    }


def signed(content, *keys):
    return dump({"signatures": [k if isinstance(k, dict) else k.sign(content) for k in keys], "signed": content})


def dump(value):
    return json.dumps(value, indent=1, ensure_ascii=False).encode()


def entry(data, **more):
    return {"length": len(data), "hashes": {"sha256": hashlib.sha256(data).hexdigest()}, **more}


ORG = {"format": 1, "min_reader": 1, "org": "acme", "name": "Acme", "help": "#help-mcp", "grace_hours": 72}
SERVER = {
    "format": 1, "min_reader": 1, "id": "files", "key": "files", "owner": "platform", "oncall": "#platform",
    "purpose": "reads files", "hosted": "self", "environment": "dev", "zone": "laptop",
    "transport": {"type": "stdio", "command": "files-server"},
    "surface": {
        "protocol": "2025-11-25",
        "tools": [{"name": "read", "exposed": "files_read", "digest": "00" * 32, "definition": {"name": "read"}}],
    },
}
POLICY = {
    "format": 1, "min_reader": 1,
    "roles": {"eng": {"title": "Engineers", "groups": ["eng"], "ask": "#eng-leads"}},
    "agents": {},
    "rules": [{"id": "eng/files#1", "source": "roles/eng.yaml:4", "approved_by": "sec", "approved_at": "2026-11-01"}],
    "grants": {"eng": {"files": {"tools": {"read": 0}}}},
}
REVOCATIONS = {"format": 1, "min_reader": 1}
DOCUMENTS = {"org.json": ORG, "policy.json": POLICY, "revocations.json": REVOCATIONS, "server-files.json": SERVER}


def edited(name, **members):
    """The documents with members of one replaced."""
    documents = copy.deepcopy(DOCUMENTS)
    documents[name].update(members)
    return documents


def publish(version=2, documents=DOCUMENTS, targets_signers=(TARGETS1, TARGETS2), timestamp_signer=TIMESTAMP,
            expires=None, versions=None, snapshot_meta=None, timestamp_version=None, **timestamp_more):
    """One consistent repository as {path: bytes}, without roots."""
    expires = {"targets": EXPIRES, "snapshot": EXPIRES, "timestamp": EXPIRES, **(expires or {})}
    versions = {"targets": version, "snapshot": version, **(versions or {})}
    files, listed = {}, {}
    for name, document in documents.items():
        data = document if isinstance(document, bytes) else dump(document)
        listed[name] = entry(data)
        files[f"targets/{listed[name]['hashes']['sha256']}.{name}"] = data
    head = lambda kind, v: {"_type": kind, "spec_version": SPEC, "version": v, "expires": expires[kind]}
    targets = signed({**head("targets", versions["targets"]), "targets": listed}, *targets_signers)
    files[f"metadata/{versions['targets']}.targets.json"] = targets
    meta = {"targets.json": entry(targets, version=versions["targets"])} if snapshot_meta is None else snapshot_meta
    snapshot = signed({**head("snapshot", versions["snapshot"]), "meta": meta}, SNAPSHOT)
    files[f"metadata/{versions['snapshot']}.snapshot.json"] = snapshot
    timestamp = {**head("timestamp", timestamp_version or version),
                 "meta": {"snapshot.json": entry(snapshot, version=versions["snapshot"])}, **timestamp_more}
    files["metadata/timestamp.json"] = signed(timestamp, timestamp_signer)
    return files


GOOD = publish()
GOOD["metadata/1.root.json"] = signed(root(), ROOT1, ROOT2)


def timestamp_for(snapshot, version, snapshot_version, **more):
    content = {"_type": "timestamp", "spec_version": SPEC, "version": version, "expires": EXPIRES,
               "meta": {"snapshot.json": {"version": snapshot_version}}, **more}
    return signed(content, TIMESTAMP)


def json_of(data):
    return json.loads(data)


def cases():
    old = publish(1, {name: {**document, "note": "the first"} for name, document in DOCUMENTS.items()})
    newer = publish(3, edited("policy.json", grants={}))
    path = lambda files, part: next(p for p in files if part in p)

    yield "older", old

    # what is cut, or says two things
    timestamp = GOOD["metadata/timestamp.json"]
    yield "truncated-timestamp", {"metadata/timestamp.json": timestamp[: len(timestamp) // 2]}
    server = path(GOOD, "server-files")
    yield "truncated-document", {server: GOOD[server][:-40]}
    yield "empty-snapshot", {"metadata/2.snapshot.json": b""}
    yield "repeated-member", {"metadata/timestamp.json": timestamp.replace(b'"version": 2,\n  "expires"', b'"version": 9,\n  "version": 2,\n  "expires"')}
    yield "fraction-as-version", {"metadata/timestamp.json": timestamp.replace(b'"version": 2,\n  "expires"', b'"version": 2.0,\n  "expires"')}
    content = json_of(timestamp)["signed"]
    yield "signed-twice-by-one-key", {"metadata/timestamp.json": signed(content, TIMESTAMP, TIMESTAMP)}
    yield "specification-2", {"metadata/timestamp.json": signed({**content, "spec_version": "2.0.0"}, TIMESTAMP)}
    yield "expiry-of-another-form", {"metadata/timestamp.json": signed({**content, "expires": "2027-01-01T00:00:00+00:00"}, TIMESTAMP)}

    # freeze
    yield "expired-timestamp", publish(expires={"timestamp": OVER})
    yield "expired-snapshot", publish(expires={"snapshot": OVER})
    yield "expired-targets", publish(expires={"targets": OVER})
    yield "expired-root", {"metadata/2.root.json": signed(root(2, OVER), ROOT1, ROOT2)}

    # rollback, of each role, after the machine has seen `good`
    yield "rollback-timestamp", old
    yield "rollback-snapshot", {**old, "metadata/timestamp.json": timestamp_for(old["metadata/1.snapshot.json"], 3, 1)}
    yield "rollback-targets", publish(3, versions={"targets": 1, "snapshot": 3})
    yield "targets-no-longer-listed", publish(3, snapshot_meta={})
    yield "root-served-again", {"metadata/2.root.json": GOOD["metadata/1.root.json"]}

    # fast-forward: the timestamp key was stolen; with and without a new root
    yield "fast-forward", publish(3, timestamp_version=2**40)
    rotated = {"metadata/2.root.json": signed(root(2, timestamp=TIMESTAMP2), ROOT1, ROOT2)}
    yield "fast-forward-recovered", {**publish(4, timestamp_signer=TIMESTAMP2), **rotated}
    yield "fast-forward-not-recovered", publish(4)

    # root
    yield "root-skips-a-version", {"metadata/2.root.json": signed(root(3), ROOT1, ROOT2)}
    yield "root-signed-by-one", {"metadata/2.root.json": signed(root(2), ROOT1)}
    theirs = root(2)
    theirs["keys"][STRANGER.id] = STRANGER.object
    theirs["roles"]["root"] = {"keyids": [STRANGER.id], "threshold": 1}
    yield "root-of-a-stranger", {"metadata/2.root.json": signed(theirs, STRANGER)}
    yield "root-not-signed-by-its-own-keys", {"metadata/2.root.json": signed(theirs, ROOT1, ROOT2)}
    lax = root(2)
    lax["roles"]["timestamp"]["threshold"] = 0
    yield "root-with-threshold-0", {"metadata/2.root.json": signed(lax, ROOT1, ROOT2)}
    twins = root(2)
    twins["keys"]["f" * 64] = TARGETS1.object
    twins["roles"]["targets"] = {"keyids": [TARGETS1.id, "f" * 64], "threshold": 2}
    files = publish()
    targets = json_of(files["metadata/2.targets.json"])["signed"]
    twice = signed(targets, TARGETS1.sign(targets), TARGETS1.sign(targets, "f" * 64))
    snapshot = {**json_of(files["metadata/2.snapshot.json"])["signed"], "meta": {"targets.json": {"version": 2}}}
    yield "one-key-under-two-ids", {
        "metadata/2.root.json": signed(twins, ROOT1, ROOT2),
        "metadata/2.targets.json": twice,
        "metadata/2.snapshot.json": (data := signed(snapshot, SNAPSHOT)),
        "metadata/timestamp.json": timestamp_for(data, 2, 2),
    }
    chain = {f"metadata/{v}.root.json": signed(root(v, OVER if v < 4 else EXPIRES), ROOT1, ROOT2) for v in (2, 3, 4)}
    yield "three-new-roots", chain

    # signatures
    yield "signed-by-too-few", publish(targets_signers=(TARGETS3,))
    yield "signed-by-a-stranger", publish(timestamp_signer=STRANGER)
    yield "signed-by-another-role", publish(timestamp_signer=SNAPSHOT)
    broken = json_of(timestamp)
    broken["signatures"][0]["sig"] = "00" * 64
    yield "signature-of-zeros", {"metadata/timestamp.json": dump(broken)}
    yield "changed-after-signing", {"metadata/timestamp.json": timestamp.replace(b"2027-01-01", b"2030-01-01")}

    # mix and match, arbitrary installation
    yield "snapshot-of-another-time", {"metadata/2.snapshot.json": newer["metadata/3.snapshot.json"]}
    yield "snapshot-of-another-version", {
        "metadata/2.snapshot.json": newer["metadata/3.snapshot.json"],
        "metadata/timestamp.json": timestamp_for(b"", 2, 2),
    }
    yield "targets-of-another-time", {"metadata/2.targets.json": newer["metadata/3.targets.json"]}
    yield "targets-as-snapshot", {
        "metadata/2.snapshot.json": GOOD["metadata/2.targets.json"],
        "metadata/timestamp.json": timestamp_for(b"", 2, 2),
    }
    policy = path(GOOD, "policy.json")
    yield "document-replaced", {policy: newer[path(newer, "policy.json")]}
    yield "document-changed", {policy: GOOD[policy].replace(b"eng", b"all")}

    # signed as it should be, and still wrong
    yield "another-organisation", publish(documents=edited("org.json", org="globex"))
    yield "server-under-another-name", publish(documents=edited("server-files.json", id="mail"))
    second = copy.deepcopy(SERVER)
    second["id"] = "mail"
    yield "two-servers-one-key", publish(documents={**DOCUMENTS, "server-mail.json": second})
    second = copy.deepcopy(second)
    second["key"] = "mail"
    yield "two-tools-one-name", publish(documents={**DOCUMENTS, "server-mail.json": second})
    yield "rule-out-of-range", publish(documents=edited("policy.json", grants={"eng": {"files": {"tools": {"read": 1}}}}))
    yield "grant-to-an-unknown-role", publish(documents=edited("policy.json", grants={"ops": {}}))
    repeated = dump(POLICY).replace(b'"read": 0', b'"read": 0,\n    "read": 0')
    yield "grant-twice", publish(documents={**DOCUMENTS, "policy.json": repeated})
    bare = copy.deepcopy(DOCUMENTS)
    del bare["server-files.json"]["surface"]
    yield "server-without-pin", publish(documents=bare)
    few = {name: document for name, document in DOCUMENTS.items() if name != "revocations.json"}
    yield "no-revocations", publish(documents=few)
    yield "organisation-for-a-newer-reader", publish(documents=edited("org.json", format=2, min_reader=2))
    yield "for-a-newer-client", publish(documents=edited("org.json", min_client="99.0.0"))
    future = {"format": 2, "min_reader": 2, "id": "mail", "something": "else"}
    yield "server-for-a-newer-reader", publish(documents={**DOCUMENTS, "server-mail.json": future, "later.json": {}})
    huge = json_of(GOOD["metadata/2.targets.json"])["signed"]
    huge["targets"]["server-files.json"]["length"] = 1 << 40
    huge = signed(huge, TARGETS1, TARGETS2)
    snapshot["meta"] = {"targets.json": {"version": 2}}
    yield "document-too-large", {
        "metadata/2.targets.json": huge,
        "metadata/2.snapshot.json": (data := signed(snapshot, SNAPSHOT)),
        "metadata/timestamp.json": timestamp_for(data, 2, 2),
    }


def write(directory, files):
    for name, data in files.items():
        if directory.name != "good" and GOOD.get(name) == data:
            continue
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def main():
    (HERE / "root.json").write_bytes(GOOD["metadata/1.root.json"])
    for name, files in [("good", GOOD), *cases()]:
        directory = HERE / name
        for part in ("metadata", "targets"):
            shutil.rmtree(directory / part, ignore_errors=True)
        directory.mkdir(exist_ok=True)
        write(directory, files)


main()
