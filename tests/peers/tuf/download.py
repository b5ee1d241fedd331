"""Verifies a repository with python-tuf's client and downloads every target.

    download.py ROOT URL DIR

DIR keeps the client's state between runs. Prints the targets' names, sorted.
"""

import pathlib
import shutil
import sys

from tuf.ngclient import Updater

root, url, directory = pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
metadata, targets = directory / "metadata", directory / "targets"
shutil.rmtree(targets, ignore_errors=True)
metadata.mkdir(parents=True, exist_ok=True)
targets.mkdir()
updater = Updater(
    metadata_dir=str(metadata),
    metadata_base_url=f"{url}metadata/",
    target_dir=str(targets),
    target_base_url=f"{url}targets/",
    bootstrap=root.read_bytes(),
)
updater.refresh()
# the names are ours to know: python-tuf's client looks targets up and does not list them
for name in ["org.json", "policy.json", "revocations.json", "server-files.json"]:
    info = updater.get_targetinfo(name)
    assert info is not None, name
    updater.download_target(info, filepath=str(targets / name))
    print(name)
