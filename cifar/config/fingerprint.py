"""What decides the result of a stage, as a few digits."""

import hashlib
import json
from typing import Any

from cifar.config.params import read_yaml
from cifar.system.processes import refuse_differences, size


def fingerprint(stage: str, params: dict[str, Any]) -> str:
    """16 hexadecimal digits that change with everything that decides the result of `stage`, except the environment.

    That is the values of `params`, and the bytes of the stage's `deps` in dvc.yaml: code and data.
    """
    digest = hashlib.sha256(json.dumps(params, sort_keys=True, default=repr).encode())
    for path in read_yaml("dvc.yaml")["stages"][stage]["deps"]:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def refuse_other_inputs(stage: str, params: dict[str, Any]) -> None:
    """Raise InputError if a process that shares `stage`, on another machine, has other params, code or data."""
    if size() > 1:
        refuse_differences({"inputs": fingerprint(stage, params)})
